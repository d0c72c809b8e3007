"""The bounds of test pictures, level by level: what the prior, the base model and the decoder pay.

Column k of [n, K] is one draw in the k-th of K equal strata of t. The mean over the columns is a
bound without KL_1; the columns, sorted by λ, show where on the schedule it is paid. The latent's
levels and noise are those of `models.bitrate`, so that prior and base model are compared on the
same draws.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unified_latents.kernels import noise
from unified_latents.models.base import BaseModel
from unified_latents.models.diffusion import (
    diffuse,
    elbo,
    kl_to_standard_normal,
    sigmoid_weighted,
    velocity,
)
from unified_latents.models.pixels import to_unit
from unified_latents.models.sampling import NoiseKeys, Stage
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.measure import Settings


@torch.no_grad()
def bounds(
    unified: UnifiedLatents,
    base: BaseModel | None,
    pixels: UInt8[Tensor, "n c *s"],
    label: Int[Tensor, " n"],
    index: Int[Tensor, " n"],
    settings: Settings,
) -> dict[str, Tensor]:
    """Real pictures, `index` in their split: nats by level, fp64.

    `prior`, `decoder`: [n, K], c_lf included in the decoder's; `log_snr_z`, `log_snr_x`: their λ;
    `kl_1`: [n]; and of a base model `base`, given the label, and `base_null`, without it.
    """
    x = to_unit(pixels)
    z_clean = unified.encoder(x)
    eps_0 = settings.keys(index, Stage.LATENT).normal(0, unified.config.latent_shape)
    z_0 = unified.noise_latent(z_clean, eps_0)
    keys = settings.keys(index, Stage.BITRATE)
    columns = [
        _latent(unified, base, z_clean, label, keys, (k, settings.levels))
        | _image(unified, x, z_0, keys, (k, settings.levels))
        for k in range(settings.levels)
    ]
    kl_1 = kl_to_standard_normal(z_clean, unified.config.latent_schedule.lambda_min)
    by_level = {name: torch.stack([each[name] for each in columns], 1) for name in columns[0]}
    return {name: values.double() for name, values in (by_level | {"kl_1": kl_1}).items()}


def _latent(
    unified: UnifiedLatents,
    base: BaseModel | None,
    z_clean: Float[Tensor, "n z *g"],
    label: Int[Tensor, " n"],
    keys: NoiseKeys,
    stratum: tuple[int, int],
) -> dict[str, Tensor]:
    """The integrand of L_z under each model, at one draw of one stratum."""
    schedule = unified.config.latent_schedule
    t, eps = _draw(keys, stratum, 0, z_clean)
    log_snr = schedule.log_snr(t)
    z_t, v = diffuse(z_clean, eps, log_snr), velocity(z_clean, eps, log_snr)
    found = {"log_snr_z": log_snr, "prior": elbo(v, unified.prior(z_t, log_snr), t, schedule)}
    if base is not None:
        given = torch.cat((label, torch.full_like(label, base.config.classes)))
        with_label, without = base(
            torch.cat((z_t, z_t)), torch.cat((log_snr, log_snr)), given
        ).chunk(2)
        found["base"] = elbo(v, with_label, t, schedule)
        found["base_null"] = elbo(v, without, t, schedule)
    return found


def _image(
    unified: UnifiedLatents,
    x: Float[Tensor, "n c *s"],
    z_0: Float[Tensor, "n z *g"],
    keys: NoiseKeys,
    stratum: tuple[int, int],
) -> dict[str, Tensor]:
    """The integrand of L_x, at one draw of one stratum."""
    config = unified.config
    t, eps = _draw(keys, stratum, 2 * stratum[1], x)
    log_snr = config.image_schedule.log_snr(t)
    v_hat = unified.decoder(diffuse(x, eps, log_snr), log_snr, z_0)
    v = velocity(x, eps, log_snr)
    loss = sigmoid_weighted(v, v_hat, t, config.image_schedule, config.decoder_bias)
    return {"log_snr_x": log_snr, "decoder": config.loss_factor * loss}


def _draw(
    keys: NoiseKeys, stratum: tuple[int, int], first: int, like: Float[Tensor, "n *d"]
) -> tuple[Tensor, Tensor]:
    """t in stratum k of K, and ε: step `first` + 2k keys the level, the next one its noise."""
    k, levels = stratum
    step = torch.full_like(keys.seed, first + 2 * k)
    u = noise.uniform(keys.seed, keys.sample, step, keys.stage, 1)[:, 0]
    return (k + u) / levels, keys.normal(first + 2 * k + 1, tuple(like.shape[1:]))
