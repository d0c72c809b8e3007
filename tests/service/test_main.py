from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from unified_latents.service import __main__ as service
from unified_latents.service.__main__ import cli, key_ring, settings_from
from unified_latents.service.engine.spawn import packages
from unified_latents.service.keys import load
from unified_latents.service.settings import usable_threads


def test_a_key_goes_to_its_owner_and_its_line_to_the_service(tmp_path: Path) -> None:
    arguments = ["key", "alice", "--scopes", "generate, metrics", "--budget", "600"]
    made = CliRunner().invoke(cli, arguments)
    assert made.exit_code == 0
    (tmp_path / "keys").write_text(made.stdout)
    found = load("", tmp_path / "keys").find(made.stderr.strip())
    assert found is not None
    assert (found.name, sorted(found.scopes), found.budget) == (
        "alice",
        ["generate", "metrics"],
        600,
    )
    assert made.stderr.strip() not in made.stdout


@pytest.mark.parametrize("arguments", [["alice", "--scopes", "fly"], ["a b"], ["a", "--budget=0"]])
def test_keys_that_cannot_be(arguments: list[str]) -> None:
    refused = CliRunner().invoke(cli, ["key", *arguments])
    assert refused.exit_code == 2
    assert not refused.stdout


def test_an_open_address_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="ul-serve key"):
        settings_from(host="0.0.0.0")
    settings = settings_from(host="0.0.0.0", api_keys_file=tmp_path / "keys")
    with pytest.raises(typer.BadParameter, match="API keys"):
        key_ring(settings)
    (tmp_path / "keys").write_text("\n# none yet\n")
    with pytest.raises(typer.BadParameter, match="no key"):
        key_ring(settings)
    assert len(key_ring(settings_from())) == 0


def test_compiled_networks_must_be_there_and_for_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=f"nothing is compiled in {tmp_path}"):
        settings_from(compiled=tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "compiled.json").touch()
    assert packages(settings_from(compiled=tmp_path).compiled) == (tmp_path / "base",)
    with pytest.raises(typer.BadParameter, match="UL_DEVICE=cpu, not cuda"):
        settings_from(compiled=tmp_path, device="cuda")


def test_compiling_is_left_to_a_process_like_an_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is ours, and only a success is told how to serve."""
    asked: list[tuple[object, ...]] = []

    def compile_ahead(*arguments: object) -> int:
        asked.append(arguments)
        return len(asked) - 1

    monkeypatch.setattr(service, "compile_ahead", compile_ahead)
    words = ["compile", "--model", "mine=/models/mine", "--into", str(tmp_path), "--rounds", "3"]
    done, failed = (CliRunner().invoke(cli, words) for _ in range(2))
    assert asked == 2 * [("/models/mine", tmp_path, 3, usable_threads())]
    assert (done.exit_code, failed.exit_code) == (0, 1)
    assert f"UL_COMPILED={tmp_path}" in done.stdout
    assert "UL_COMPILED" not in failed.stdout


def test_sigterm_ends_what_a_bench_has_started() -> None:
    """As an exception does: whatever stands in a `finally` or a `with` is done."""
    code = (
        "import time; from unified_latents.service.__main__ import end_in_order; end_in_order()\n"
        "try: print('started', flush=True); time.sleep(60)\n"
        "finally: print('ended', flush=True)"
    )
    command = [sys.executable, "-P", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        child.terminate()
        assert child.stdout.read() == "ended\n"
    assert child.returncode == 128 + signal.SIGTERM
