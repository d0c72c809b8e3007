"""Stage 1: encoder, prior and decoder under one bound (arXiv 2602.17270).

z_clean = E(x)
L_z = E_t[ ½ (−dλ_z/dt) e^λ ‖z_clean − ẑ(z_t)‖² ] + KL[ p(z_1|x) ‖ N(0, I) ]
L_x = E_t[ c_lf ½ (−dλ_x/dt) sigmoid(b − λ) ‖ε − ε̂(x_t, z_0)‖² ]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified_latents.kernels.dispatch import diffuse as keyed_diffuse
from unified_latents.kernels.noise import Keys
from unified_latents.models import frames
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.decoder import Decoder
from unified_latents.models.diffusion import (
    diffuse,
    elbo,
    kl_to_standard_normal,
    per_sample,
    sigmoid_weighted,
    velocity,
)
from unified_latents.models.encoder import Encoder
from unified_latents.models.frames import Contexts
from unified_latents.models.prior import Prior
from unified_latents.models.schedule import LinearSchedule


class Losses(NamedTuple):
    """Each [n], in nats an image."""

    latent: Tensor
    """L_z, KL_1 included: the bitrate."""
    image: Tensor
    """L_x."""
    kl_1: Tensor


def antithetic(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """n levels in [0, 1), one in each of n equal strata, in random order: t_i = (i + u) / n.

    One u for all of them, so that a batch covers the schedule evenly (Kingma et al., 2021).
    """
    order = torch.randperm(n, generator=generator)
    return (order + torch.rand(1, generator=generator)) / n


@dataclass(frozen=True)
class Draws:
    """All the randomness of one evaluation of the bound over a batch of n images."""

    t_z: Float[Tensor, " n"]
    t_x: Float[Tensor, " n"]
    eps_z: Float[Tensor, "n z *g"]
    eps_0: Float[Tensor, "n z *g"]
    """The noise that makes z_0, never the prior's own."""
    eps_x: Float[Tensor, "n c *s"]
    shown: Float[Tensor, " n"]
    """1 where the decoder sees the known frames, if the model has such, 0 elsewhere."""

    @classmethod
    def sample(cls, config: UnifiedConfig, n: int, generator: torch.Generator) -> Draws:
        """Drawn on the CPU, whatever the device of the model."""
        latent, image = (n, *config.latent_shape), (n, *config.image_shape)
        return Draws(
            t_z=antithetic(n, generator),
            t_x=antithetic(n, generator),
            eps_z=torch.randn(latent, generator=generator),
            eps_0=torch.randn(latent, generator=generator),
            eps_x=torch.randn(image, generator=generator),
            shown=torch.randint(2, (n,), generator=generator).float(),
        )


def scale_gradient(x: Tensor, weight: float | Tensor) -> Tensor:
    """The same values, bit for bit, with the gradient times `weight`."""
    fixed = x.detach()
    return fixed + weight * (x - fixed)


def latent_bound(
    prior: nn.Module,
    schedule: LinearSchedule,
    z_clean: Float[Tensor, "n z *g"],
    t: Float[Tensor, " n"],
    eps: Float[Tensor, "n z *g"],
) -> Float[Tensor, " n"]:
    """The integrand of L_z at the levels t, without KL_1, in nats."""
    log_snr = schedule.log_snr(t)
    v_hat = prior(diffuse(z_clean, eps, log_snr), log_snr)
    return elbo(velocity(z_clean, eps, log_snr), v_hat, t, schedule)


class UnifiedLatents(nn.Module):
    """The three networks of stage 1."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.image_channels, config.latent_channels)
        self.prior = Prior(config.prior, config.latent_channels, config.grid)
        self.decoder = Decoder(
            config.decoder,
            config.image_channels,
            config.latent_channels,
            config.decoder_grid,
            config.image_context,
        )

    def noise_latent(
        self, z_clean: Float[Tensor, "n z *g"], eps: Float[Tensor, "n z *g"]
    ) -> Float[Tensor, "n z *g"]:
        """z_0 = α_z(0) z_clean + σ_z(0) ε."""
        return diffuse(z_clean, eps, z_clean.new_full((len(z_clean),), self.config.lambda_0))

    def noised_latent(
        self, z_clean: Float[Tensor, "n z *g"], keys: Keys
    ) -> Float[Tensor, "n z *g"]:
        """z_0 with the noise of its keys, which is never stored where kernels are fused."""
        return keyed_diffuse(z_clean, z_clean.new_full((len(z_clean),), self.config.lambda_0), keys)

    def contexts(self, clip: Float[Tensor, "n c *s"]) -> Contexts:
        """What both networks are shown of the first `known_frames` of `clip`; more are not read.

        Nothing of a picture.
        """
        known = clip[:, :, : self.config.known_frames]
        held = (frames.held(known, self.config.size[0]) for _ in self.config.latent_context)
        base = tuple(frames.marked(self.encoder(still)) for still in held)
        return Contexts(base, self.decoder_context(clip))

    def decoder_context(self, clip: Float[Tensor, "n c *s"]) -> tuple[Tensor, ...]:
        """The decoder's part of `contexts`, for which nothing is encoded."""
        known = clip[:, :, : self.config.known_frames]
        return tuple(frames.shown(known, self.config.size[0]) for _ in self.config.image_context)

    def losses(
        self, x: Float[Tensor, "n c *s"], draws: Draws, encoder_weight: float | Tensor = 1.0
    ) -> Losses:
        """Both terms of the bound, one level a row.

        `encoder_weight` scales the gradient of L_z into the encoder and nothing else [C]: an
        untrained prior would charge the encoder before the decoder has learned to listen.
        """
        config = self.config
        z_clean = self.encoder(x)
        charged = scale_gradient(z_clean, encoder_weight)
        kl_1 = kl_to_standard_normal(charged, config.latent_schedule.lambda_min)
        latent = latent_bound(self.prior, config.latent_schedule, charged, draws.t_z, draws.eps_z)
        z_0 = self.noise_latent(z_clean, draws.eps_0)
        log_snr = config.image_schedule.log_snr(draws.t_x)
        shown = (per_sample(draws.shown, x) * part for part in self.decoder_context(x))
        v_hat = self.decoder(diffuse(x, draws.eps_x, log_snr), log_snr, z_0, *shown)
        image = sigmoid_weighted(
            velocity(x, draws.eps_x, log_snr),
            v_hat,
            draws.t_x,
            config.image_schedule,
            config.decoder_bias,
        )
        return Losses(latent + kl_1, config.loss_factor * image, kl_1)
