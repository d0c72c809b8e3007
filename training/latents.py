"""z_clean of a whole split, encoded once, and kept beside the run.

Of clips whose first frames may be known, what the base model is shown of them too.
"""

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
_CLIPS = 50


class Latents(NamedTuple):
    """A split as stage 2 sees it, on the CPU."""

    z_clean: Float[Tensor, "n z *g"]
    label: Int[Tensor, " n"]
    context: tuple[Tensor, ...] = ()
    """Each [n, k, *grid]."""


@torch.no_grad()
def encode(split: Split, unified: UnifiedLatents, device: torch.device) -> Latents:
    """z_clean of every picture of `split`, in its order."""
    unified = unified.to(device).eval()
    batch = _BATCH if split.card.frames is None else _CLIPS
    starts = range(0, len(split), batch)
    z_clean, contexts = [], []
    for start in track(starts, "encoding", disable=len(starts) < 2, transient=True):
        image = split.batch(range(start, min(start + batch, len(split)))).image
        x = to_unit(image.to(device))
        z_clean.append(unified.encoder(x).cpu())
        contexts.append(tuple(part.cpu() for part in unified.contexts(x).base))
    context = tuple(torch.cat(parts) for parts in zip(*contexts, strict=True))
    return Latents(torch.cat(z_clean), split.labels, context)


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
        return _read(path)
    latents = encode(split, unified, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    context = {f"context_{i}": part.contiguous() for i, part in enumerate(latents.context)}
    own = {"z_clean": latents.z_clean.contiguous(), "label": latents.label}
    save_file(own | context, partial)
    partial.replace(path)
    return latents


def _read(path: Path) -> Latents:
    tensors = load_file(path)
    z_clean, label = tensors.pop("z_clean"), tensors.pop("label")
    return Latents(z_clean, label, tuple(tensors[name] for name in sorted(tensors)))
