"""The ablations of stage 1: one term of `terms.Bound` is another (arXiv 2602.17270, Tables 5, 6).

Each leaves networks that the rest of the system reads as it reads any others: a normal prior is a
prior that predicts v̂ = 0, a decoder of means is sampled in one step, a learned variance leaves
the encoder of its means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from unified_latents.models.config import UnifiedConfig
from unified_latents.models.diffusion import kl_to_standard_normal, x_from_v
from unified_latents.models.objective.terms import (
    UNIFIED,
    Bound,
    DiffusionDecoder,
    DiffusionPrior,
    Encoded,
    LatentLoss,
    Network,
    scale_gradient,
)
from unified_latents.models.schedule import LinearSchedule

_WIDEST = 10.0
"""Of ln σ_z² around −λ(0), where the learned variance equals the fixed noise's."""


def variance_rate(log_variance: Float[Tensor, "n z *g"], lambda_0: float) -> Float[Tensor, " n"]:
    """L_e = −½ Σ ln(σ_z² e^{λ(0)} + 1): z_0's entropy above that of the fixed noise, in nats."""
    return -0.5 * F.softplus(log_variance + lambda_0).flatten(1).sum(1)


@dataclass(frozen=True)
class LearnedVariance:
    """z_clean = μ + σ_z ε, both from the encoder (Table 6, D)."""

    def channels(self, latent_channels: int) -> int:
        return 2 * latent_channels

    def __call__(self, encoded: Tensor, eps: Tensor, lambda_0: float) -> Encoded:
        mean, raw = encoded.chunk(2, 1)
        log_variance = raw.clamp(-_WIDEST, _WIDEST) - lambda_0
        z_clean = mean + (log_variance / 2).exp() * eps
        return Encoded(z_clean, variance_rate(log_variance, lambda_0))


@dataclass(frozen=True)
class NormalPrior:
    """KL[ q(z_0|x) ‖ N(0, I) ] in closed form: the rate of an ordinary VAE (Table 5)."""

    def __call__(
        self,
        prior: nn.Module,
        schedule: LinearSchedule,
        z_clean: Tensor,
        t: Tensor,
        eps: Tensor,
        weight: float | Tensor,
    ) -> LatentLoss:
        rate = kl_to_standard_normal(scale_gradient(z_clean, weight), schedule.lambda_max)
        return LatentLoss(rate, torch.zeros_like(rate), torch.zeros_like(rate))


@dataclass(frozen=True)
class DetachedPrior:
    """The prior learns what it finds; the encoder hears a small KL instead (Table 6, A)."""

    weight: float = 0.01
    """Of KL[ q(z_0|x) ‖ N(0, I) ]; the paper calls it small [C]."""

    def __call__(
        self,
        prior: nn.Module,
        schedule: LinearSchedule,
        z_clean: Tensor,
        t: Tensor,
        eps: Tensor,
        weight: float | Tensor,
    ) -> LatentLoss:
        found = DiffusionPrior()(prior, schedule, z_clean.detach(), t, eps, 0.0)
        kl = kl_to_standard_normal(scale_gradient(z_clean, weight), schedule.lambda_max)
        return found._replace(penalty=self.weight * kl)


@dataclass(frozen=True)
class MeanDecoder:
    """½ e^b ‖x − x̂(z_0)‖²: x̂ from pure noise in one step, a Gaussian likelihood (Table 5).

    What a sampler's single step to λ = +∞ returns is this x̂; its precision c_lf e^b is ours [C].
    """

    def __call__(
        self, denoise: Network, config: UnifiedConfig, x: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        log_snr = torch.full_like(t, config.image_schedule.lambda_min)
        x_hat = x_from_v(eps, denoise(eps, log_snr), log_snr)
        precision = torch.full_like(t, config.decoder_bias).exp()
        return 0.5 * precision * (x - x_hat).float().square().flatten(1).sum(1)


VARIANTS: dict[str, Bound] = {
    "unified": UNIFIED,
    "learned-variance": Bound(posterior=LearnedVariance()),
    "normal-prior": Bound(latent=NormalPrior()),
    "mse-decoder": Bound(image=MeanDecoder()),
    "detached-prior": Bound(latent=DetachedPrior()),
    "single-stage": Bound(image=DiffusionDecoder(shift=-3.0)),
}
"""By name. Of a single stage the prior itself is sampled, and the decoder's loss is shifted to
noisier levels, so that the latent holds what a plain bound can learn (Appendix B)."""
