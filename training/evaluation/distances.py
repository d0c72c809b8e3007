"""Distances between two sets of features, fp64: Fréchet's and the kernel's.

Both are named for the network that makes the features; neither is "the FID". What two sets of
real pictures score against each other is printed beside them, because the Fréchet distance of
finite sets is biased upwards and no zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Moments(NamedTuple):
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    """Unbiased: divided by n − 1."""


class Estimate(NamedTuple):
    value: float
    std_error: float | None
    """From the spread over the blocks; none with a single block."""


def moments(features: Float[Tensor, "n d"]) -> Moments:
    """Mean and covariance in fp64. `ValueError` below two rows."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs two rows or more, got {len(features)}")
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet(a: Moments, b: Moments) -> float:
    """‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a^½ Σ_b Σ_a^½)^½ (Heusel et al., 2017).

    The last trace is the sum of the roots of the eigenvalues of a symmetric product, those that
    rounding made negative at zero: no root of a general matrix, whose errors are complex.
    """
    root = _root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + spread)


def _root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def kernel(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], block: int = 1000, seed: int = 0
) -> Estimate:
    """The mean over blocks of the unbiased MMD² under (x·y / d + 1)³ (Bińkowski et al., 2018).

    Both sets are shuffled by `seed` and cut into as many whole disjoint blocks as the smaller one
    holds, of at most `block` ≥ 2 rows each.
    """
    size = min(block, len(a), len(b))
    if size < 2:
        raise ValueError(f"a block needs two rows or more, got {size}")
    generator = torch.Generator().manual_seed(seed)
    blocks = min(len(a), len(b)) // size
    first, second = (
        each[torch.randperm(len(each), generator=generator)[: blocks * size]].double().split(size)
        for each in (a, b)
    )
    found = torch.stack([mmd2(x, y) for x, y in zip(first, second, strict=True)])
    error = (found.std() / blocks**0.5).item() if blocks > 1 else None
    return Estimate(found.mean().item(), error)


def mmd2(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """The unbiased MMD² of two sets under the cubic kernel: no row meets itself."""
    within = sum(
        (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
        for k in (_cubic(a, a), _cubic(b, b))
    )
    return within - 2 * _cubic(a, b).mean()


def _cubic(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (a @ b.T / a.shape[1] + 1) ** 3
