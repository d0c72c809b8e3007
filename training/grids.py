"""Sample grids: what a network makes of fixed inputs and fixed noise, as one PNG."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from unified_latents.models import sampling
from unified_latents.models.pixels import from_unit
from unified_latents.models.sampling import NoiseKeys, Stage
from unified_latents.models.unified import UnifiedLatents

_ZOOM_TO = 64


def keys(n: int, stage: Stage, device: torch.device, seed: int = 0) -> NoiseKeys:
    """The noise of samples 0 … n − 1 of one seed."""
    seeds = torch.full((n,), seed, device=device)
    return NoiseKeys(seeds, torch.arange(n, device=device), stage)


@torch.no_grad()
def decode(
    unified: UnifiedLatents, z_0: Float[Tensor, "n z *g"], steps: int = 50
) -> Float[Tensor, "n c *s"]:
    """Images drawn by the ancestral sampler, sample i with the noise of (seed 0, sample i)."""
    config = unified.config
    plan = sampling.plan(config.image_schedule, steps, "ancestral", to_mean=True)

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        v_hat: Tensor = unified.decoder(x_t, log_snr, z_0)
        return v_hat

    noise = keys(len(z_0), Stage.DECODE, z_0.device)
    return sampling.sample(denoise, noise, config.image_shape, plan, clip=True)


@torch.no_grad()
def reconstruct(
    unified: UnifiedLatents, x: Float[Tensor, "n c *s"], steps: int = 50
) -> Float[Tensor, "n c *s"]:
    """x → z_clean → z_0 → an image, with the noise of (seed 0, sample i) throughout."""
    z_clean: Tensor = unified.encoder(x)
    eps = keys(len(x), Stage.LATENT, x.device).normal(0, unified.config.latent_shape)
    return decode(unified, unified.noise_latent(z_clean, eps), steps)


def tile(images: Float[Tensor, "n c h w"], columns: int) -> UInt8[Tensor, "H W c"]:
    """Images row by row, in [−1, 1]; places left over stay black."""
    pixels = from_unit(images).cpu().permute(0, 2, 3, 1)
    rows = math.ceil(len(pixels) / columns)
    _, height, width, channels = pixels.shape
    canvas = torch.zeros(rows * columns, height, width, channels, dtype=torch.uint8)
    canvas[: len(pixels)] = pixels
    placed: Tensor = canvas.unflatten(0, (rows, columns)).transpose(1, 2)
    return placed.reshape(rows * height, columns * width, channels)


def write(path: Path, images: Float[Tensor, "n c h w"], columns: int) -> None:
    """A PNG of the tiled images, small ones enlarged by a whole factor."""
    picture = tile(images, columns)
    mode = picture[..., 0] if picture.shape[-1] == 1 else picture
    image = Image.fromarray(mode.numpy())
    zoom = max(1, _ZOOM_TO // images.shape[-1])
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
