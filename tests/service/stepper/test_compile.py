"""Which compiled networks are kept; no compiler: the module itself in the library's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler

from unified_latents.models import checkpoint
from unified_latents.service.stepper import compile as command
from unified_latents.service.stepper.compile import Line, contest, make, same_bits, sweep
from unified_latents.service.stepper.networks.compiled import (
    Network,
    PackageError,
    Purpose,
    networks,
)


@pytest.fixture(params=["encode", "base", "decode"])
def network(tiny: Path, request: pytest.FixtureRequest) -> Network:
    loaded = checkpoint.load(tiny)
    return networks(loaded.unified, loaded.base, max(command.ROWS))[request.param]


def alone(network: Network) -> Callable[..., Tensor]:
    """Strict rows one at a time."""

    def run(*inputs: Tensor, strict: bool) -> Tensor:
        if not strict:
            return network.module(*inputs)  # type: ignore[no-any-return]
        return torch.cat([network.module(*row) for row in zip(*(i.split(1) for i in inputs))])  # noqa: B905

    return run


def test_every_pass_is_compared_in_both_modes(network: Network) -> None:
    with torch.inference_mode():
        lines = contest("base", network, alone(network), 2)
    assert [(line.strict, line.rows) for line in lines] == [
        (strict, n) for strict in (False, True) for n in command.ROWS
    ]
    assert all(line.ratio > 0 and f"×{line.ratio:.2f}" in str(line) for line in lines)


def test_rows_that_know_each_other_or_their_place_are_found_out(network: Network) -> None:
    run = alone(network)

    def mixing(*inputs: Tensor, strict: bool) -> Tensor:
        made = run(*inputs, strict=strict)
        return made + made.mean(0)

    def placed(*inputs: Tensor, strict: bool) -> Tensor:
        made = run(*inputs, strict=strict).clone()
        made[3::4] += 1e-3
        return made

    with torch.inference_mode():
        assert same_bits(network, run)
        assert not same_bits(network, mixing)
        assert not same_bits(network, placed)


@pytest.mark.parametrize(
    ("ratio", "same", "said"),
    [
        (2.0, True, "kept as"),
        (0.9, True, "not faster with strict 4 rows"),
        (2.0, False, "other bits"),
    ],
)
def test_only_what_wins_is_kept(
    network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    same: bool,
    said: str,
) -> None:
    def build(network: Network, folder: Path) -> None:
        folder.mkdir()
        (folder / "library").write_bytes(b"machine code")

    line = Line("base", True, 4, (ratio,), (1.0,))
    monkeypatch.setattr(command, "build", build)
    monkeypatch.setattr(command, "load", lambda folder, package, network: None)
    monkeypatch.setattr(command, "contest", lambda *_: [line])
    monkeypatch.setattr(command, "same_bits", lambda *_: same)
    assert said in make("base", network, tmp_path, 1)
    kept = list(tmp_path.iterdir())
    assert len(kept) == ("kept" in said and "not" not in said)
    for folder in kept:
        assert {path.name for path in folder.iterdir()} == {"library", "compiled.json"}
        assert "there already" in make("base", network, tmp_path, 1)
        monkeypatch.setattr(command, "load", damaged)
        with pytest.raises(PackageError):
            make("base", network, tmp_path, 1)
        assert not folder.exists()


def test_who_cannot_compile_is_told_why(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No checkpoint, no folder, no compiler; and nothing is left behind."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "make", lambda *_: "kept")
    assert command.main(str(tmp_path / "none"), tmp_path, 1, 1) == 1
    assert "no checkpoint folder" in capsys.readouterr().err
    assert command.main(str(tiny), tmp_path / "file", 1, 1) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert command.main(str(tiny), tmp_path / "into", 1, 1) == 0
    monkeypatch.setattr(command, "get_cpp_compiler", no_compiler)
    assert command.main(str(tiny), tmp_path / "into", 1, 1) == 1
    assert "C++ compiler" in capsys.readouterr().err
    assert not list((tmp_path / "into").iterdir())


def no_compiler() -> str:
    raise InvalidCxxCompiler


def damaged(*_: object) -> None:
    raise PackageError("damaged")


def test_what_a_killed_compilation_left_is_swept_away(tmp_path: Path) -> None:
    """And nothing of one that is still at work."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for pid in (child.pid, os.getpid()):
        (tmp_path / f".{pid}-x" / "package").mkdir(parents=True)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{os.getpid()}-x"]


def test_a_package_is_named_by_its_purpose() -> None:
    names = {
        Purpose(stage, machine, network, "g++ 12").name
        for stage in ("base", "decode")
        for machine in ("a" * 64, "b" * 64)
        for network in ("c" * 64, "d" * 64)
    }
    assert len(names) == 8
