"""`ul-train evaluate`: a checkpoint, measured on a prepared set's test pictures.

The work is cut into units of a batch. A finished unit is a file under `parts/`, in a folder
named by everything that decides its content: so an interrupted evaluation goes on, a longer one
takes over what a shorter one measured, and any number of processes share the work, with the same
result. At the end the units are merged into `metrics.json` and a page.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unified_latents.kernels import inductor
from unified_latents.models import checkpoint as checkpoints
from unified_latents.models.checkpoint import Checkpoint
from unified_latents.models.manifest import Defaults, read_manifest
from unified_latents.training import measure
from unified_latents.training.data.card import SPLITS, DataCard, DataError, read_card
from unified_latents.training.data.sets import Split, load
from unified_latents.training.evaluation.bounds import bounds
from unified_latents.training.measure import Settings
from unified_latents.training.metrics import Curve, Figure

T = TypeVar("T")

Kind = Literal["images", "generated", "bounds"]


class Unit(NamedTuple):
    """Pictures `start` to `stop` of one kind."""

    kind: Kind
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{self.kind}-{self.start:07d}-{self.stop:07d}.safetensors"


def fingerprint(decides: object) -> str:
    """A short name for everything that decides a part's content."""
    return hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:16]


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
    batch: int = 100
    compiled: bool = False
    """Base model and decoder through `torch.compile`: other rounding, so not told apart."""

    def part(self, unit: Unit) -> Path:
        """A unit's file."""
        return self.out / "parts" / fingerprint(self.decides(unit.kind)) / unit.file

    def decides(self, kind: Kind) -> tuple[object, ...]:
        """Everything that the content of a kind's parts depends on, besides the numbers.

        Reconstructions know nothing of the base model, so they outlive it.
        """
        how, settings = self.settings.sampling, self.settings
        if kind == "generated":
            return (self.digest, settings)
        if kind == "bounds":
            return (kind, self.digest, self.test_sha256, settings.levels, settings.seed)
        sampling = (how.decode_steps, how.decode_sampler)
        return (self.stage_1, self.test_sha256, sampling, settings.levels, settings.seed)

    def units(self) -> list[Unit]:
        """All of the work, in order."""
        counts: dict[Kind, int] = {
            "images": self.images,
            "bounds": self.images,
            "generated": self.generated,
        }
        return [unit for kind, count in counts.items() for unit in self._units(kind, count)]

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
    curves: dict[str, Curve] = field(default_factory=dict)
    loss_factor: float | None = None


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
    batch: int = 100,
    compiled: bool = False,
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
        compiled=compiled,
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


def todo(evaluation: Evaluation) -> list[Unit]:
    """What is not measured yet."""
    return [unit for unit in evaluation.units() if not evaluation.part(unit).is_file()]


def run(evaluation: Evaluation, processes: int = 1) -> Generator[Unit]:
    """Measure what is not measured yet, on so many processes; yields each unit when it is done."""
    yield from spread(partial(_work, evaluation), todo(evaluation), processes)


def spread(work: Callable[[T], T], tasks: Sequence[T], processes: int) -> Generator[T]:
    """Do all tasks on so many processes that share the threads; yields each when it is done."""
    if processes == 1:
        yield from map(work, tasks)
        return
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    )
    try:
        for future in as_completed([pool.submit(work, each) for each in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def put(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a part so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial_path)
    os.replace(partial_path, path)


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
    if evaluation.compiled:
        checkpoint.unified.decoder.compile(options=inductor.OPTIONS)
        if checkpoint.base is not None:
            checkpoint.base.compile(options=inductor.OPTIONS)
    return _Bench(checkpoint, data.card, data.test, device)


def _work(evaluation: Evaluation, unit: Unit) -> Unit:
    """Measure one unit and put its file in place."""
    bench, settings = _bench(evaluation), evaluation.settings
    unified, base = bench.checkpoint.unified, bench.checkpoint.base
    index = torch.arange(unit.start, unit.stop, device=bench.device)
    if unit.kind == "generated":
        assert base is not None
        label = index % base.config.classes
        found = measure.generated(unified, base, label, index, settings)
    else:
        pixels, label = (each.to(bench.device) for each in bench.test.batch(index.tolist()))
        if unit.kind == "images":
            found = measure.images(unified, pixels, index, bench.card.content_size, settings)
        else:
            found = bounds(unified, base, pixels, label, index, settings)
    put(evaluation.part(unit), found)
    return unit
