"""Networks as libraries: really compiled, of tiny models, once for this file."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import shutil
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.service.conftest import save_tiny, tiny_config
from tests.service.engine.test_client import running
from tests.service.test_server_bytes import crowds, deaths, numbers
from unified_latents.models import checkpoint
from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.engine.spawn import PACKAGE, EngineOptions
from unified_latents.service.stepper.catalogue import load
from unified_latents.service.stepper.compile import build, describe, purpose
from unified_latents.service.stepper.networks import compiled as module
from unified_latents.service.stepper.networks.compiled import (
    Compiled,
    Library,
    Network,
    NetworkName,
    PackageError,
    networks,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packages(tiny: Path, tiny_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The decoder of pictures, and the base model of clips, which is shown frames."""
    folder = tmp_path_factory.mktemp("compiled")
    pictures, clips = (
        networks(loaded.unified, loaded.base, 5)
        for loaded in (checkpoint.load(tiny), checkpoint.load(tiny_clips))
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        build(pictures["decode"], folder / "decode")
        describe(purpose("decode", pictures["decode"]), folder / "decode")
        build(clips["base"], folder / "base")
        describe(purpose("base", clips["base"]), folder / "base")
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
        self, tiny: Path, tiny_clips: Path, tmp_path: Path, packages: list[Path]
    ) -> None:
        """With the weights they were compiled beside, and with any others."""
        other = save_tiny(tmp_path / "other", seed=3)
        for folder, names in ((tiny, {"decode"}), (other, {"decode"}), (tiny_clips, {"base"})):
            pairs = found(folder, packages)
            assert pairs.keys() == names
            for compiled, network in pairs.values():
                for n in (1, 2, 3, 16):
                    rows = tuple(each[:n] for each in network.inputs)
                    expected = network.module(*rows)
                    for strict in (False, True):
                        made = compiled(*rows, strict=strict)
                        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)

    @torch.inference_mode()
    def test_strict_rows_have_the_same_bits_in_any_number(
        self, tiny: Path, tiny_clips: Path, packages: list[Path]
    ) -> None:
        pairs = found(tiny, packages) | found(tiny_clips, packages)
        for name, (compiled, network) in pairs.items():
            whole = compiled(*network.inputs, strict=True)
            for n in range(1, 16):
                made = compiled(*(each[-n:] for each in network.inputs), strict=True)
                assert torch.equal(made, whole[-n:]), (name, n)

    def test_others_are_passed_over(
        self,
        tmp_path: Path,
        tiny: Path,
        packages: list[Path],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A model of other shapes, and another machine."""
        wider = replace(tiny_config(), latent_channels=6)
        other = save_tiny(tmp_path / "other", config=wider)
        assert not load(Checkpoint("m", str(other)), "cpu", Library(packages)).card.compiled
        assert Library(packages).digest is not None
        assert Library(packages).digest != Library(packages[:1]).digest
        monkeypatch.setattr(module, "machine", lambda: "another")
        with caplog.at_level(logging.WARNING):
            library = Library(packages)
        assert library.digest is None
        assert not load(Checkpoint("m", str(tiny)), "cpu", library).compiled
        assert str(packages[0]) in caplog.text

    def test_a_damaged_one_is_named(self, tiny: Path, tmp_path: Path, packages: list[Path]) -> None:
        """A copy: what is loaded must not change under those who run it."""
        damaged = shutil.copytree(packages[1], tmp_path / "decode")
        (file,) = damaged.rglob("*.so")
        for path in (file, damaged / PACKAGE):
            sound = path.read_bytes()
            path.write_bytes(sound[:-3] + bytes([sound[-3] ^ 1]) + sound[-2:])
            with pytest.raises(PackageError, match=str(path)):
                load(Checkpoint("m", str(tiny)), "cpu", Library([damaged]))
            path.write_bytes(sound)
        (damaged / "more.so").touch()
        with pytest.raises(PackageError, match=r"more\.so is missing, damaged or foreign"):
            load(Checkpoint("m", str(tiny)), "cpu", Library([damaged]))

    def test_loading_again_and_again_keeps_nothing(self, tiny: Path, packages: list[Path]) -> None:
        """As hot swaps do. A tensor handed over for good would be seen by its finalizer."""
        freed: list[int] = []
        for i in range(3):
            model = load(Checkpoint("m", str(tiny)), "cpu", Library(packages))
            for weight in model.unified.decoder.parameters():
                weakref.finalize(weight.untyped_storage(), freed.append, i)
            weights = len(list(model.unified.decoder.parameters()))
            del model, weight
            gc.collect()
        assert freed == [i for i in range(3) for _ in range(weights)]

    def test_one_that_computes_something_else_is_refused(
        self, tiny: Path, packages: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Compiled, "_run", lambda self, inputs: torch.zeros(len(inputs[0]), 1))
        with pytest.raises(PackageError, match="does not compute"):
            load(Checkpoint("m", str(tiny)), "cpu", Library(packages))

    @pytest.mark.parametrize(("folder", "name"), [("tiny", "decode"), ("tiny_clips", "base")])
    def test_one_digest_for_one_seed(
        self, request: pytest.FixtureRequest, packages: list[Path], folder: str, name: str
    ) -> None:
        """An engine on libraries: in any number, among strangers, over two deaths."""
        wanted = Checkpoint("m", str(request.getfixturevalue(folder)))
        options = EngineOptions((wanted,), compiled=tuple(packages))

        async def run() -> list[str]:
            async with running(options) as (engine, watch):
                assert engine.ready is not None
                assert engine.ready.models[0].compiled == (name,)
                chance = random.Random(7)
                scenes = [await each(engine, watch, chance) for each in (numbers, crowds, deaths)]
            return [digest for scene in scenes for digest in scene]

        assert len(set(asyncio.run(run()))) == 1
