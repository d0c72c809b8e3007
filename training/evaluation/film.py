"""A distance between sets of clips, without a network of motion.

    clip → [ PCA(mean_t f_t),  PCA(mean_t |f_{t+1} − f_t|),  ln mean_t ‖f_{t+k} − f_t‖ for lags k ]

f_t are a picture network's features of frame t; the principal axes and one scale a block are those
of the reference clips, and the distance is Fréchet's. It sees clips that stand still, are slowed,
noisy or blurred, and weakly those whose frames are shuffled; a film played backwards is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unified_latents.training.evaluation.distances import Moments, frechet, moments

LAGS = (1, 2, 3, 4, 6, 8)
AXES = 16
_FLOOR = 1e-2
"""Added to a length before its logarithm: a clip that stands still has lengths of zero."""

_NARROWEST = 1e-6
"""Of a scale: clips that are all alike have none."""


def blocks(features: Float[Tensor, "n t f"]) -> tuple[Tensor, Tensor, Tensor]:
    """The three parts of a clip's vector, before any projection; [n, f], [n, f], [n, lags]."""
    steps = features[:, 1:] - features[:, :-1]
    profile = [
        ((features[:, lag:] - features[:, :-lag]).norm(dim=2).mean(1) + _FLOOR).log()
        for lag in LAGS
        if lag < features.shape[1]
    ]
    return features.mean(1), steps.abs().mean(1), torch.stack(profile, 1)


class _Frame(NamedTuple):
    """How one block is projected: (x − mean) axes / scale."""

    mean: Tensor
    axes: Tensor
    scale: Tensor

    def __call__(self, block: Tensor) -> Tensor:
        return (block - self.mean) @ self.axes / self.scale


@dataclass(frozen=True)
class Reference:
    """The clips that others are compared with."""

    frames: tuple[_Frame, ...]
    moments: Moments

    @classmethod
    def of(cls, features: Float[Tensor, "n t f"]) -> Reference:
        """From the features of at least two clips of at least two frames."""
        mean, change, profile = blocks(features.double())
        frames = (_principal(mean), _principal(change), _plain(profile))
        return cls(frames, moments(_embed(frames, features)))

    def distance(self, features: Float[Tensor, "n t f"]) -> float:
        """Fréchet's, of Gaussians fitted to the vectors of both sets."""
        return frechet(self.moments, moments(_embed(self.frames, features)))


def _embed(frames: tuple[_Frame, ...], features: Tensor) -> Tensor:
    parts = blocks(features.double())
    return torch.cat([frame(part) for frame, part in zip(frames, parts, strict=True)], 1)


def _principal(block: Tensor) -> _Frame:
    mean = block.mean(0)
    axes = torch.linalg.svd(block - mean, full_matrices=False).Vh[:AXES].T
    return _Frame(mean, axes, ((block - mean) @ axes).std().clamp(min=_NARROWEST))


def _plain(block: Tensor) -> _Frame:
    mean = block.mean(0)
    return _Frame(
        mean,
        torch.eye(block.shape[1], dtype=block.dtype),
        (block - mean).std().clamp(min=_NARROWEST),
    )
