"""z_clean of a whole split, encoded once, and kept beside the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from unified_latents.models.pixels import to_unit
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.data.sets import Split

_BATCH = 500


class Latents(NamedTuple):
    """A split as stage 2 sees it, on the CPU."""

    z_clean: Float[Tensor, "n z *g"]
    label: Int[Tensor, " n"]


@torch.no_grad()
def encode(split: Split, unified: UnifiedLatents, device: torch.device) -> Latents:
    """z_clean of every picture of `split`, in its order."""
    encoder = unified.encoder.to(device).eval()
    starts = range(0, len(split), _BATCH)
    parts = [
        encoder(to_unit(_pictures(split, start).to(device))).cpu()
        for start in track(starts, "encoding", disable=len(starts) < 2, transient=True)
    ]
    return Latents(torch.cat(parts), split.labels)


def cached(
    folder: Path,
    name: str,
    split: Split,
    unified: UnifiedLatents,
    digest: str,
    device: torch.device,
) -> Latents:
    """`encode`, or what an earlier call wrote for this split, its file and this checkpoint."""
    data = split.card.sha256[f"{name}.parquet"]
    path = folder / "latents" / f"{name}-{data[:12]}-{digest[:12]}.safetensors"
    if path.exists():
        return Latents(**load_file(path))
    latents = encode(split, unified, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    save_file({"z_clean": latents.z_clean.contiguous(), "label": latents.label}, partial)
    partial.replace(path)
    return latents


def _pictures(split: Split, start: int) -> Tensor:
    return split.batch(range(start, min(start + _BATCH, len(split)))).image
