"""`ul-train evaluate` of a checkpoint of clips: what is measured of each, on held-out ones.

    reconstruction  clip → z_clean → z_0 → one draw of the decoder, which is shown nothing
    prediction      known frames → base model → z_0 → one draw of the decoder, for two seeds

Known frames are handed back as they came. Noise is keyed by the clip's index, and a finished batch
is a file, so that an interrupted evaluation goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from safetensors.torch import load_file
from torch import Tensor

from unified_latents.models import checkpoint as checkpoints
from unified_latents.models.base import BaseModel
from unified_latents.models.checkpoint import Checkpoint
from unified_latents.models.manifest import read_manifest
from unified_latents.models.pixels import to_unit
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training import measure
from unified_latents.training.data.card import DataError, read_card
from unified_latents.training.data.sets import DataSet, load
from unified_latents.training.evaluation import efficientnet
from unified_latents.training.evaluation.evaluate import fingerprint, put
from unified_latents.training.measure import Settings

REFERENCE = 2
"""Clips of the training split, for each one measured, that distances refer to."""


class Span(NamedTuple):
    """Clips `start` to `stop`: of the test split, or of the reference."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class Films:
    """What is measured and where it goes."""

    checkpoint: Path
    data: Path
    out: Path
    clips: int
    settings: Settings
    digest: str
    sha256: tuple[str, str]
    """Of the set's two files."""
    batch: int = 8

    def spans(self) -> list[Span]:
        counts = {"clips": self.clips, "reference": REFERENCE * self.clips}
        return [
            Span(kind, start, min(start + self.batch, count))
            for kind, count in counts.items()
            for start in range(0, count, self.batch)
        ]

    def part(self, span: Span) -> Path:
        """A batch's file, in a folder named by all that decides it."""
        own = (self.digest, self.settings) if span.kind == "clips" else ()
        folder = fingerprint((*own, self.sha256))
        return self.out / "parts" / folder / f"{span.kind}-{span.start}-{span.stop}.safetensors"

    def merged(self, kind: str) -> dict[str, Tensor]:
        """All batches of one kind, joined."""
        parts = [load_file(self.part(span)) for span in self.spans() if span.kind == kind]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def plan(checkpoint: str | Path, data: Path, out: Path, clips: int, seed: int = 0) -> Films:
    """Fill in what manifest and card decide; at most the test split's clips are measured.

    `DataError` or `CheckpointError` where something is absent or does not fit.
    """
    folder = checkpoints.find(checkpoint)
    manifest, card = read_manifest(folder), read_card(data)
    if clips < 2:
        raise DataError(f"two clips at least are needed, got {clips}")
    count = min(clips, card.counts["test"], card.counts["train"] // REFERENCE)
    return Films(
        folder.resolve(),
        Path(data).resolve(),
        Path(out),
        count,
        Settings(manifest.card.defaults, seed=seed),
        manifest.digest,
        (card.sha256["train.parquet"], card.sha256["test.parquet"]),
    )


def run(films: Films) -> Iterator[Span]:
    """Measure what is not measured yet; yields each batch when it is done."""
    for span in films.spans():
        if not films.part(span).is_file():
            put(films.part(span), _work(films, span))
        yield span


class _Bench(NamedTuple):
    checkpoint: Checkpoint
    data: DataSet
    network: efficientnet.EfficientNetLite0


@lru_cache(maxsize=1)
def _bench(films: Films) -> _Bench:
    checkpoint, data = checkpoints.load(films.checkpoint), load(films.data)
    have, want = (data.card.channels, *data.card.size), checkpoint.unified.config.image_shape
    if checkpoint.base is None or not checkpoint.unified.config.known_frames:
        raise DataError(f"{films.checkpoint} does not go on from known frames")
    if have != want:
        raise DataError(f"{data.card.name} has clips of {have}, {films.checkpoint} takes {want}")
    return _Bench(checkpoint, data, efficientnet.load())


def _work(films: Films, span: Span) -> dict[str, Tensor]:
    bench, index = _bench(films), torch.arange(span.start, span.stop)
    if span.kind == "reference":
        clip = bench.data.train.batch(index.tolist()).image
        return {"real": features(bench.network, clip)}
    clip, label = bench.data.test.batch(index.tolist())
    unified, base = bench.checkpoint.unified, bench.checkpoint.base
    assert base is not None
    found = measure.images(unified, clip, index, bench.data.card.content, films.settings)
    first, second = (
        _continued(unified, base, clip, label, index, replace(films.settings, seed=seed))
        for seed in (films.settings.seed, films.settings.seed + 1)
    )
    still = copied(clip, unified.config.known_frames)
    shown = {"real": clip, "made": first, "still": still, "again": found["picture"]}
    seen = {f"features_{name}": features(bench.network, each) for name, each in shown.items()}
    pictures = {"clip": clip, "first": first, "second": second, "again": found["picture"]}
    return {"nats": found["nats"], "mse": found["mse_grid"]} | pictures | seen


def _continued(
    unified: UnifiedLatents,
    base: BaseModel,
    clip: Tensor,
    label: Tensor,
    index: Tensor,
    settings: Settings,
) -> Tensor:
    """The known frames and what follows them in one sample."""
    known = unified.config.known_frames
    contexts = unified.contexts(to_unit(clip))
    made = measure.generated(unified, base, label, index, settings, contexts)["picture"]
    return torch.cat((clip[:, :, :known], made[:, :, known:]), 2)


def copied(clip: UInt8[Tensor, "n c t h w"], known: int) -> UInt8[Tensor, "n c t h w"]:
    """The clip that stands still after its last known frame: what a prediction must beat."""
    last = clip[:, :, known - 1 : known].expand(-1, -1, clip.shape[2] - known, -1, -1)
    return torch.cat((clip[:, :, :known], last), 2)


@torch.no_grad()
def features(network: efficientnet.EfficientNetLite0, clip: UInt8[Tensor, "n c t h w"]) -> Tensor:
    """[n, t, f] fp32 of every frame."""
    frames = clip.transpose(1, 2).flatten(0, 1)
    found = torch.cat([network(part) for part in frames.split(64)]).float()
    return found.reshape(len(clip), clip.shape[2], -1)
