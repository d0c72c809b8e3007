"""The bitrate of single latents: L_z by stratified levels and keyed noise (arXiv 2602.17270).

    nats = 1/K Σ_k ½ (−dλ/dt) e^λ ‖z − ẑ(z_{t_k})‖² + KL_1,    t_k = (k + u_k) / K

One level is hopeless (its relative standard deviation exceeds 100 %); strata are what make the
figure usable for one image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unified_latents.kernels import noise
from unified_latents.models.diffusion import kl_to_standard_normal
from unified_latents.models.objective.terms import latent_bound
from unified_latents.models.sampling import NoiseKeys, Stage
from unified_latents.models.unified import UnifiedLatents


class Rate(NamedTuple):
    """Each [n], in nats an image, fp64."""

    nats: Tensor
    std_error: Tensor
    """Of `nats`, from second differences of neighbouring strata, which see the noise within the
    strata and not the trend across them; NaN below three levels."""


@torch.no_grad()
def bitrate(
    unified: UnifiedLatents,
    z_clean: Float[Tensor, "n z *g"],
    keys: NoiseKeys,
    levels: int,
    rows: int = 256,
) -> Rate:
    """The bound on each latent's bits, at `levels` ≥ 1 strata, about `rows` rows a forward pass.

    Noise is a function of each row's key, so neither `rows` nor the batch changes a value.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    per_level = torch.cat([
        strata(unified, z_clean, keys, torch.arange(start, min(start + width, levels)), levels)
        for width in [max(1, rows // len(z_clean))]
        for start in range(0, levels, width)
    ], 1)  # fmt: skip
    return summary(unified, z_clean, per_level)


def summary(
    unified: UnifiedLatents, z_clean: Float[Tensor, "n z *g"], per_level: Float[Tensor, "n k"]
) -> Rate:
    """The bound from the integrand at every stratum."""
    kl_1 = kl_to_standard_normal(z_clean, unified.config.latent_schedule.lambda_min)
    variance = per_level.diff(n=2, dim=1).square().mean(1) / 6
    return Rate(per_level.mean(1) + kl_1.double(), (variance / per_level.shape[1]).sqrt())


@torch.no_grad()
def strata(
    unified: UnifiedLatents,
    z_clean: Float[Tensor, "n z *g"],
    keys: NoiseKeys,
    k: Int[Tensor, " k"],
    levels: int,
) -> Float[Tensor, "n k"]:
    """The integrand of every latent at the strata k: step 2k keys a level, 2k + 1 its noise."""
    k = k.to(z_clean.device)
    seed, sample = keys.seed[:, None], keys.sample[:, None]
    size = z_clean[0].numel()
    u = noise.uniform(seed, sample, 2 * k, Stage.BITRATE, 1)[..., 0]
    eps = noise.normal(seed, sample, 2 * k + 1, Stage.BITRATE, size)
    rows = z_clean.repeat_interleave(len(k), 0)
    nats = latent_bound(
        unified.prior,
        unified.config.latent_schedule,
        rows,
        ((k + u) / levels).flatten(),
        eps.reshape(rows.shape),
    )
    return nats.double().unflatten(0, (-1, len(k)))


def to_bits(nats: float) -> float:
    """nats → bits."""
    return nats / math.log(2)
