"""The terms of stage 1 as objects: a posterior, a latent term and an image term (arXiv 2602.17270).

    L = L_z(prior, z_clean) + L_e(posterior) + L_x(decoder, x)

Here are the interfaces and the paper's own three; `variants` has those of its ablations. Every
term is [n], in nats a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from unified_latents.models.config import UnifiedConfig
from unified_latents.models.diffusion import (
    diffuse,
    elbo,
    kl_to_standard_normal,
    sigmoid_weighted,
    velocity,
)
from unified_latents.models.schedule import LinearSchedule

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t [n, …], λ_t [n]) → v̂ [n, …]."""


class Encoded(NamedTuple):
    """What the posterior makes of the encoder's output."""

    z_clean: Float[Tensor, "n z *g"]
    nats: Float[Tensor, " n"]
    """L_e, the rate beside L_z: never above zero."""


class LatentLoss(NamedTuple):
    rate: Float[Tensor, " n"]
    """A bound on the latent's nats, KL_1 included."""
    kl_1: Float[Tensor, " n"]
    penalty: Float[Tensor, " n"]
    """What is trained on besides and is no part of the bound."""


@runtime_checkable
class Posterior(Protocol):
    """How z_clean comes of the encoder's output; z_0 is always noised to λ(0) from it."""

    def channels(self, latent_channels: int) -> int:
        """Of the encoder's output."""

    def __call__(
        self, encoded: Float[Tensor, "n k *g"], eps: Float[Tensor, "n z *g"], lambda_0: float
    ) -> Encoded: ...


@runtime_checkable
class LatentTerm(Protocol):
    """The rate under the prior; `weight` scales its gradient into the encoder."""

    def __call__(
        self,
        prior: nn.Module,
        schedule: LinearSchedule,
        z_clean: Float[Tensor, "n z *g"],
        t: Float[Tensor, " n"],
        eps: Float[Tensor, "n z *g"],
        weight: float | Tensor,
    ) -> LatentLoss: ...


@runtime_checkable
class ImageTerm(Protocol):
    """What the image costs given z_0, without c_lf; `denoise` is the decoder that knows z_0."""

    def __call__(
        self,
        denoise: Network,
        config: UnifiedConfig,
        x: Float[Tensor, "n c *s"],
        t: Float[Tensor, " n"],
        eps: Float[Tensor, "n c *s"],
    ) -> Float[Tensor, " n"]: ...


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


@dataclass(frozen=True)
class FixedVariance:
    """z_clean is the encoder's output: the only noise of z_0 is that of λ(0)."""

    def channels(self, latent_channels: int) -> int:
        return latent_channels

    def __call__(self, encoded: Tensor, eps: Tensor, lambda_0: float) -> Encoded:
        return Encoded(encoded, encoded.new_zeros(len(encoded)))


@dataclass(frozen=True)
class DiffusionPrior:
    """½ (−dλ/dt) e^λ ‖z_clean − ẑ(z_t)‖² + KL_1."""

    def __call__(
        self,
        prior: nn.Module,
        schedule: LinearSchedule,
        z_clean: Tensor,
        t: Tensor,
        eps: Tensor,
        weight: float | Tensor,
    ) -> LatentLoss:
        charged = scale_gradient(z_clean, weight)
        kl_1 = kl_to_standard_normal(charged, schedule.lambda_min)
        bound = latent_bound(prior, schedule, charged, t, eps)
        return LatentLoss(bound + kl_1, kl_1, bound.new_zeros(len(bound)))


@dataclass(frozen=True)
class DiffusionDecoder:
    """½ (−dλ/dt) sigmoid(b + shift − λ) ‖ε − ε̂(x_t, z_0)‖²."""

    shift: float = 0.0

    def __call__(
        self, denoise: Network, config: UnifiedConfig, x: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        schedule, bias = config.image_schedule, config.decoder_bias + self.shift
        log_snr = schedule.log_snr(t)
        v_hat = denoise(diffuse(x, eps, log_snr), log_snr)
        return sigmoid_weighted(velocity(x, eps, log_snr), v_hat, t, schedule, bias)


@dataclass(frozen=True)
class Bound:
    """The three terms of one objective; the paper's own unless said otherwise."""

    posterior: Posterior = FixedVariance()
    latent: LatentTerm = DiffusionPrior()
    image: ImageTerm = DiffusionDecoder()


UNIFIED = Bound()
