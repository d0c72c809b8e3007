"""A fixed run of encode, generate and decode that a healthy model repeats anywhere.

Recorded when a checkpoint is saved and compared when it is served: a service is ready when its
own device and kernels give the recorded latents and pixels within tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unified_latents.models.base import BaseModel, guided
from unified_latents.models.sampling import NoiseKeys, Stage, plan, sample
from unified_latents.models.unified import UnifiedLatents

SEED = 20260217
STEPS = 4
LATENT_TOLERANCE = 1e-3
IMAGE_TOLERANCE = 2 / 127.5
"""Two of 255 levels, on the range [−1, 1]."""


@dataclass(frozen=True)
class CanaryReport:
    """The largest absolute differences from the record."""

    latent_error: float
    image_error: float

    @property
    def ok(self) -> bool:
        """False, too, where an error is NaN."""
        return self.latent_error <= LATENT_TOLERANCE and self.image_error <= IMAGE_TOLERANCE


@torch.no_grad()
def record(unified: UnifiedLatents, base: BaseModel | None) -> dict[str, Tensor]:
    """One picture through every network: `z_clean`, `z_0` where there is a base model, `image`."""
    config = unified.config
    device = next(unified.parameters()).device
    identity = torch.zeros(1, dtype=torch.int64, device=device)
    keys = {stage: NoiseKeys(identity + SEED, identity, stage) for stage in Stage}
    picture = keys[Stage.LATENT].normal(1, config.image_shape).clamp(-1, 1)
    z_clean = unified.encoder(picture)
    outputs = {"z_clean": z_clean}
    known = unified.contexts(picture)
    z_0 = unified.noised_latent(z_clean, keys[Stage.LATENT].at(0))
    if base is not None:
        steps = plan(config.latent_schedule, STEPS, "dpmpp-2m", to_mean=False)
        denoiser = guided(base, identity, guidance=2.0, context=known.base)
        z_0 = sample(denoiser, keys[Stage.BASE], config.latent_shape, steps, clip=False)
        outputs["z_0"] = z_0
    steps = plan(config.image_schedule, STEPS, "ancestral", to_mean=True)
    outputs["image"] = sample(
        lambda x_t, log_snr: unified.decoder(x_t, log_snr, z_0, *known.decoder),
        keys[Stage.DECODE],
        config.image_shape,
        steps,
        clip=True,
    )
    return {name: value.cpu() for name, value in outputs.items()}


def compare(recorded: dict[str, Tensor], measured: dict[str, Tensor]) -> CanaryReport:
    """The record beside a new run; a tensor missing on either side counts as an infinite error."""
    errors = {
        name: _largest_difference(recorded.get(name), measured.get(name))
        for name in recorded.keys() | measured.keys() | {"z_clean", "image"}
    }
    image_error = errors.pop("image")
    latent_errors = torch.tensor(list(errors.values()))
    return CanaryReport(latent_errors.max().item(), image_error)


def _largest_difference(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    return (a - b).abs().max().item()
