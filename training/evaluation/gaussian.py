"""Pictures in memory, and the simplest model of them: one full-covariance Gaussian a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unified_latents.training.data.sets import Batch, Split
from unified_latents.training.evaluation.distances import Moments, moments


@dataclass(frozen=True)
class Pictures:
    """A split that is not on disk."""

    image: UInt8[Tensor, "n c h w"]
    label: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.image)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pictures at `indices`, in that order."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(self.image[index], self.label[index])


def gaussian(split: Split, count: int, labels: int, generator: torch.Generator) -> Pictures:
    """`count` samples of the Gaussians fitted to the classes of `split`, classes in turn.

    Fitted in pixel space, all pixels with all others; samples are clipped to 0…255 and rounded.
    A class with fewer than two pictures has no Gaussian and is left out.
    """
    rows = [(split.labels == label).nonzero().flatten() for label in range(labels)]
    known = [label for label in range(labels) if len(rows[label]) > 1]
    label = torch.tensor(known)[torch.arange(count) % len(known)]
    shape = split.batch([0]).image.shape[1:]
    image = torch.empty((count, *shape), dtype=torch.uint8)
    for each in known:
        places = (label == each).nonzero().flatten()
        pixels = split.batch(rows[each].tolist()).image.flatten(1)
        drawn = draw(moments(pixels), len(places), generator)
        image[places] = drawn.round().clamp(0, 255).to(torch.uint8).unflatten(1, shape)
    return Pictures(image, label)


def draw(fitted: Moments, count: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Samples by the covariance's eigenvectors: a constant pixel makes it singular."""
    values, vectors = torch.linalg.eigh(fitted.covariance)
    noise = torch.randn(count, len(values), generator=generator, dtype=torch.float64)
    sampled: Tensor = fitted.mean + (noise * values.clamp(min=0).sqrt()) @ vectors.T
    return sampled
