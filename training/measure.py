"""The networks' part of an evaluation: a few pictures in, their figures and pictures out.

Every random number is keyed by the picture's index in its set (or the sample's number), so that
neither batching nor sharding changes a figure beyond fp32 rounding.

    rate           z_clean = E(x)  →  stratified bound under the prior
    reconstruction z_clean → z_0 → one draw of the decoder
    generation     label → base model → z_0 → one draw of the decoder
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unified_latents.models import sampling
from unified_latents.models.base import BaseModel, guided
from unified_latents.models.bitrate import bitrate
from unified_latents.models.clips.frames import NOTHING, Contexts
from unified_latents.models.manifest import Defaults
from unified_latents.models.pixels import from_unit, to_unit
from unified_latents.models.sampling import NoiseKeys, Stage
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.errors import TrainingError
from unified_latents.training.metrics import mean_squared_error


@dataclass(frozen=True)
class Settings:
    """What decides a picture's figures, besides the picture and the networks."""

    sampling: Defaults
    levels: int = 8
    """Strata of the rate bound, an image."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.sampling.base_steps, self.sampling.decode_steps, self.levels)
        if min(counts) < 1:
            raise TrainingError(f"steps and levels must be at least 1, got {counts}")
        if not 0 <= self.seed < 2**53:
            raise TrainingError(f"the seed must lie in 0 … 2⁵³ − 1, got {self.seed}")

    def keys(self, index: Int[Tensor, " n"], stage: Stage) -> NoiseKeys:
        return NoiseKeys(torch.full_like(index, self.seed), index, stage)


def centre(x: Float[Tensor, "n c *s"], size: tuple[int, ...]) -> Float[Tensor, "n c *a"]:
    """The centred region of `size` in every dimension of space."""
    for axis, (full, part) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        x = x.narrow(axis, (full - part) // 2, part)
    return x


@torch.no_grad()
def decode(
    unified: UnifiedLatents,
    z_0: Float[Tensor, "n z *g"],
    index: Int[Tensor, " n"],
    settings: Settings,
    context: tuple[Tensor, ...] = (),
) -> Float[Tensor, "n c *s"]:
    """One draw of the decoder for each latent, in [−1, 1]."""
    config, how = unified.config, settings.sampling
    plan = sampling.plan(config.image_schedule, how.decode_steps, how.decode_sampler, to_mean=True)

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        v_hat: Tensor = unified.decoder(x_t, log_snr, z_0, *context)
        return v_hat

    keys = settings.keys(index, Stage.DECODE)
    return sampling.sample(denoise, keys, config.image_shape, plan, clip=True)


@torch.no_grad()
def images(
    unified: UnifiedLatents,
    pixels: UInt8[Tensor, "n c *s"],
    index: Int[Tensor, " n"],
    content_size: tuple[int, ...],
    settings: Settings,
) -> dict[str, Tensor]:
    """Real pictures, `index` in their split: nats, squared errors and reconstructions.

    `nats`, `mse_grid`, `mse_content`: [n] fp64; `picture`: uint8 [n, c, …].
    """
    x = to_unit(pixels)
    z_clean = unified.encoder(x)
    rate = bitrate(unified, z_clean, settings.keys(index, Stage.BITRATE), settings.levels)
    eps = settings.keys(index, Stage.LATENT).normal(0, unified.config.latent_shape)
    drawn = decode(unified, unified.noise_latent(z_clean, eps), index, settings)
    return {
        "nats": rate.nats,
        "mse_grid": mean_squared_error(drawn, x),
        "mse_content": mean_squared_error(centre(drawn, content_size), centre(x, content_size)),
        "picture": from_unit(drawn),
    }


@torch.no_grad()
def generated(
    unified: UnifiedLatents,
    base: BaseModel,
    label: Int[Tensor, " n"],
    index: Int[Tensor, " n"],
    settings: Settings,
    known: Contexts = NOTHING,
) -> dict[str, Tensor]:
    """Samples number `index` of the seed for the labels: `picture` uint8 [n, c, …], `label`."""
    config, how = unified.config, settings.sampling
    plan = sampling.plan(config.latent_schedule, how.base_steps, how.base_sampler, to_mean=False)
    denoiser = guided(base, label, how.guidance, how.guidance_interval, known.base)
    keys = settings.keys(index, Stage.BASE)
    z_0 = sampling.sample(denoiser, keys, config.latent_shape, plan, clip=False)
    drawn = decode(unified, z_0, index, settings, known.decoder)
    return {"picture": from_unit(drawn), "label": label}
