"""Networks as libraries: really compiled, of the tiny model, once for this file."""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from pathlib import Path

import pytest
import torch

from tests.service.conftest import save_tiny
from tests.service.engine.test_client import running
from tests.service.test_server_bytes import crowds, deaths, numbers
from unified_latents.models import checkpoint
from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.stepper import compiled as module
from unified_latents.service.stepper.catalogue import load
from unified_latents.service.stepper.compile import build, describe
from unified_latents.service.stepper.compiled import (
    Compiled,
    Library,
    Network,
    NetworkName,
    PackageError,
    networks,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packages(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("compiled")
    loaded = checkpoint.load(tiny)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        for name, network in networks(loaded.unified, loaded.base, 5).items():
            build(network, folder / name)
            describe(name, network, folder / name)
    return sorted(folder.iterdir())


def found(folder: Path, packages: list[Path]) -> dict[NetworkName, tuple[Compiled, Network]]:
    """Each library that fits a checkpoint, and the network with sixteen rows."""
    loaded = checkpoint.load(folder)
    libraries = Library(packages).match(loaded.unified, loaded.base)
    modules = networks(loaded.unified, loaded.base, 16)
    return {name: (libraries[name], modules[name]) for name in libraries}


class TestLibraries:
    """All that needs a compiler."""

    @torch.inference_mode()
    def test_they_compute_what_the_networks_do(
        self, tiny: Path, tmp_path: Path, packages: list[Path]
    ) -> None:
        """With the weights they were compiled beside, and with any others."""
        for folder in (tiny, save_tiny(tmp_path / "other", seed=3)):
            pairs = found(folder, packages)
            assert pairs.keys() == {"base", "decode", "encode"}
            for compiled, network in pairs.values():
                for n in (1, 2, 3, 16):
                    rows = tuple(each[:n] for each in network.inputs)
                    expected = network.module(*rows)
                    for strict in (False, True):
                        made = compiled(*rows, strict=strict)
                        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)

    @torch.inference_mode()
    def test_strict_rows_have_the_same_bits_in_any_number(
        self, tiny: Path, packages: list[Path]
    ) -> None:
        for name, (compiled, network) in found(tiny, packages).items():
            whole = compiled(*network.inputs, strict=True)
            for n in range(1, 16):
                made = compiled(*(each[-n:] for each in network.inputs), strict=True)
                assert torch.equal(made, whole[-n:]), (name, n)

    def test_others_are_passed_over(
        self,
        tiny_clips: Path,
        tiny: Path,
        packages: list[Path],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A model of other shapes, and another machine."""
        assert not load(Checkpoint("m", str(tiny_clips)), "cpu", Library(packages)).card.compiled
        assert Library(packages).digest is not None
        assert Library(packages).digest != Library(packages[:1]).digest
        monkeypatch.setattr(module, "machine", lambda: "another")
        with caplog.at_level(logging.WARNING):
            library = Library(packages)
        assert library.digest is None
        assert not load(Checkpoint("m", str(tiny)), "cpu", library).compiled
        assert str(packages[0]) in caplog.text

    def test_a_damaged_one_is_named(self, tiny: Path, packages: list[Path]) -> None:
        (file,) = packages[0].rglob("*.so")
        sound = file.read_bytes()
        file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        try:
            with pytest.raises(PackageError, match=str(file)):
                load(Checkpoint("m", str(tiny)), "cpu", Library(packages))
        finally:
            file.write_bytes(sound)

    def test_one_that_computes_something_else_is_refused(
        self, tiny: Path, packages: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Compiled, "_run", lambda self, inputs: torch.zeros(len(inputs[0]), 1))
        with pytest.raises(PackageError, match="does not compute"):
            load(Checkpoint("m", str(tiny)), "cpu", Library(packages))

    def test_one_digest_for_one_seed(self, tiny: Path, packages: list[Path]) -> None:
        """An engine on libraries: in any number, among strangers, over two deaths."""
        options = EngineOptions((Checkpoint("m", str(tiny)),), compiled=tuple(packages))

        async def run() -> list[str]:
            async with running(options) as (engine, watch):
                assert engine.ready is not None
                assert engine.ready.models[0].compiled == ("base", "decode", "encode")
                chance = random.Random(7)
                scenes = [await each(engine, watch, chance) for each in (numbers, crowds, deaths)]
            return [digest for scene in scenes for digest in scene]

        assert len(set(asyncio.run(run()))) == 1
