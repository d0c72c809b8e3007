"""`ul-train evaluate`: a checkpoint, measured on a prepared set's test pictures.

The work is cut into units of a batch. A finished unit is a file under `parts/`, in a folder
named by everything that decides its content: so an interrupted evaluation goes on, a longer one
takes over what a shorter one measured, and any number of processes share the work, with the same
result. At the end the units are merged into `metrics.json` and a page.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unified_latents.models import checkpoint as checkpoints
from unified_latents.models.checkpoint import Checkpoint
from unified_latents.models.manifest import Defaults, read_manifest
from unified_latents.training import measure
from unified_latents.training.data.card import SPLITS, DataCard, DataError, read_card
from unified_latents.training.data.sets import Split, load
from unified_latents.training.measure import Settings
from unified_latents.training.metrics import Figure

Kind = Literal["images", "generated"]


class Unit(NamedTuple):
    """Pictures `start` to `stop` of one kind."""

    kind: Kind
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{self.kind}-{self.start:07d}-{self.stop:07d}.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """What is to be measured, and where it goes; `plan` makes one from what a user asks for."""

    checkpoint: Path
    data: Path
    out: Path
    images: int
    generated: int
    settings: Settings
    digest: str
    """Of the checkpoint: one that changes under a running evaluation is an error."""
    stage_1: tuple[str, ...]
    """Of the files of encoder, prior and decoder."""
    test_sha256: str
    batch: int = 64

    def part(self, unit: Unit) -> Path:
        """A unit's file. Reconstructions know nothing of the base model, so they outlive it."""
        decides: tuple[object, ...] = (self.digest, self.settings)
        if unit.kind == "images":
            how, settings = self.settings.sampling, self.settings
            sampling = (how.decode_steps, how.decode_sampler)
            decides = (self.stage_1, self.test_sha256, sampling, settings.levels, settings.seed)
        name = hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:16]
        return self.out / "parts" / name / unit.file

    def units(self) -> list[Unit]:
        """All of the work, in order."""
        return [*self._units("images", self.images), *self._units("generated", self.generated)]

    def _units(self, kind: Kind, count: int) -> Iterator[Unit]:
        for start in range(0, count, self.batch):
            yield Unit(kind, start, min(start + self.batch, count))

    def merged(self, kind: Kind, count: int) -> dict[str, Tensor]:
        """The tensors of all units of one kind, joined in the order of the pictures."""
        parts = [load_file(self.part(unit)) for unit in self._units(kind, count)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Metrics:
    """What an evaluation found: `metrics.json`, and what a manifest takes over."""

    checkpoint: str
    """Its name."""
    digest: str
    data: str
    test_sha256: str
    settings: Settings
    judge: str
    """The classifier that named generated pictures."""
    figures: dict[str, Figure]


def plan(
    checkpoint: str | Path,
    data: Path,
    out: Path,
    *,
    images: int = 10_000,
    generated: int = 20_000,
    steps_base: int | None = None,
    steps_decode: int | None = None,
    guidance: float | None = None,
    levels: int = 8,
    seed: int = 0,
    batch: int = 64,
) -> Evaluation:
    """Fill in what the checkpoint's manifest and the set's card decide.

    At most the test split's pictures are measured. A checkpoint without a base model generates
    nothing. `TrainingError` or `CheckpointError` where something is out of range or absent.
    """
    if images < 1 or generated < 0 or batch < 1:
        raise DataError(f"images and batch must be at least 1, got {images} and {batch}")
    folder = checkpoints.find(checkpoint)
    manifest, card = read_manifest(folder), read_card(data)
    if not card.counts[SPLITS[1]]:
        raise DataError(f"{data} has no test pictures")
    how = _sampling(manifest.card.defaults, steps_base, steps_decode, guidance)
    return Evaluation(
        checkpoint=folder.resolve(),
        data=Path(data).resolve(),
        out=Path(out),
        images=min(images, card.counts[SPLITS[1]]),
        generated=generated if "base.safetensors" in manifest.files else 0,
        settings=Settings(how, levels, seed),
        digest=manifest.digest,
        stage_1=tuple(manifest.files[f"{name}.safetensors"] for name in checkpoints.STAGE_1),
        test_sha256=card.sha256[f"{SPLITS[1]}.parquet"],
        batch=batch,
    )


def _sampling(
    defaults: Defaults, base: int | None, decode: int | None, guidance: float | None
) -> Defaults:
    """What the user leaves out, the manifest says."""
    return replace(
        defaults,
        base_steps=defaults.base_steps if base is None else base,
        decode_steps=defaults.decode_steps if decode is None else decode,
        guidance=defaults.guidance if guidance is None else guidance,
    )


def run(evaluation: Evaluation, processes: int = 1) -> Generator[Unit]:
    """Measure what is not measured yet, on so many processes; yields each unit when it is done."""
    todo = [unit for unit in evaluation.units() if not evaluation.part(unit).is_file()]
    if processes == 1:
        for unit in todo:
            yield _work(evaluation, unit)
        return
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    )
    try:
        for future in as_completed([pool.submit(_work, evaluation, unit) for unit in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Bench(NamedTuple):
    """What a process needs for its units."""

    checkpoint: Checkpoint
    card: DataCard
    test: Split
    device: torch.device


@lru_cache(maxsize=1)
def _bench(evaluation: Evaluation) -> _Bench:
    checkpoint, data = checkpoints.load(evaluation.checkpoint), load(evaluation.data)
    if checkpoint.manifest.digest != evaluation.digest:
        raise DataError(f"{evaluation.checkpoint} changed while it was being measured")
    config = checkpoint.unified.config
    if (data.card.channels, *data.card.image_size) != config.image_shape:
        raise DataError(
            f"{data.card.name} has pictures of {(data.card.channels, *data.card.image_size)}, "
            f"{checkpoint.card.name} takes {config.image_shape}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for network in (checkpoint.unified, checkpoint.base):
        if network is not None:
            network.to(device)
    return _Bench(checkpoint, data.card, data.test, device)


def _work(evaluation: Evaluation, unit: Unit) -> Unit:
    """Measure one unit and put its file in place."""
    bench, settings = _bench(evaluation), evaluation.settings
    unified, base = bench.checkpoint.unified, bench.checkpoint.base
    index = torch.arange(unit.start, unit.stop, device=bench.device)
    if unit.kind == "images":
        pixels = bench.test.batch(index.tolist()).image.to(bench.device)
        found = measure.images(unified, pixels, index, bench.card.content_size, settings)
    elif base is not None:
        label = index % base.config.classes
        found = measure.generated(unified, base, label, index, settings)
    else:
        raise DataError(f"{evaluation.checkpoint} has no base model")
    path = evaluation.part(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{unit.file}.{os.getpid()}")
    save_file({name: value.cpu().contiguous() for name, value in found.items()}, partial)
    os.replace(partial, path)
    return unit
