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
from unified_latents.models.clips import frames
from unified_latents.models.clips.frames import Contexts
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.decoder import Decoder
from unified_latents.models.diffusion import (
    diffuse,
    per_sample,
)
from unified_latents.models.encoder import Encoder
from unified_latents.models.objective.terms import UNIFIED, Bound, scale_gradient
from unified_latents.models.prior import Prior


class Losses(NamedTuple):
    """Each [n], in nats an image."""

    latent: Tensor
    """L_z, KL_1 and a learned variance's L_e included: the bitrate."""
    image: Tensor
    """L_x."""
    kl_1: Tensor
    penalty: Tensor
    """Trained on, and no part of the bound; zeros but in a variant."""


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
    eps_e: Float[Tensor, "n z *g"]
    """The noise of a learned posterior."""

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
            eps_e=torch.randn(latent, generator=generator),
        )


class UnifiedLatents(nn.Module):
    """The three networks of stage 1, and the terms that train them."""

    def __init__(self, config: UnifiedConfig, bound: Bound = UNIFIED) -> None:
        super().__init__()
        self.config, self.bound = config, bound
        encoded = bound.posterior.channels(config.latent_channels)
        self.encoder = Encoder(config.encoder, config.image_channels, encoded)
        self.prior = Prior(config.prior, config.latent_channels, config.grid)
        self.decoder = Decoder(
            config.decoder,
            config.image_channels,
            config.latent_channels,
            config.decoder_grid,
            config.image_context,
        )

    def plain(self) -> UnifiedLatents:
        """The networks without their training: what a checkpoint holds.

        Of an encoder with more outputs the first are the means, and those are kept.
        """
        plain = UnifiedLatents(self.config).to(next(self.parameters()).device)
        wanted = plain.state_dict()
        plain.load_state_dict(
            {name: value[: len(wanted[name])] for name, value in self.state_dict().items()}
        )
        return plain.train(self.training)

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
        """The terms of the bound, one level a row.

        `encoder_weight` scales the gradient of L_z into the encoder and nothing else [C]: an
        untrained prior would charge the encoder before the decoder has learned to listen.
        """
        config = self.config
        z_clean, nats = self.bound.posterior(self.encoder(x), draws.eps_e, config.lambda_0)
        latent = self.bound.latent(
            self.prior,
            config.latent_schedule,
            z_clean,
            draws.t_z,
            draws.eps_z,
            encoder_weight,
        )
        z_0 = self.noise_latent(z_clean, draws.eps_0)
        shown = [per_sample(draws.shown, x) * part for part in self.decoder_context(x)]

        def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
            return self.decoder(x_t, log_snr, z_0, *shown)

        image = self.bound.image(denoise, config, x, draws.t_x, draws.eps_x)
        rate = latent.rate + scale_gradient(nats, encoder_weight)
        return Losses(rate, config.loss_factor * image, latent.kl_1, latent.penalty)
