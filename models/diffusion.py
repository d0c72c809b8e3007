"""Variance-preserving diffusion: noising, the three ways to write one prediction, the two bounds.

    x_t = α x + σ ε        v = α ε − σ x        x̂ = α x_t − σ v̂        ε̂ = σ x_t + α v̂

Everything is pure, fp32, and summed over the dimensions of a sample: [n, …] in, [n] nats out
(arXiv 2602.17270).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unified_latents.kernels.dispatch import weighted_error
from unified_latents.models.schedule import Schedule


def alpha(log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """α = √sigmoid(λ)."""
    return torch.sigmoid(log_snr).sqrt()


def sigma(log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """σ = √sigmoid(−λ)."""
    return torch.sigmoid(-log_snr).sqrt()


def per_sample(values: Float[Tensor, " n"], like: Float[Tensor, "n *d"]) -> Tensor:
    """[n] reshaped to [n, 1, …] so that it broadcasts over the dimensions of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def diffuse(
    x: Float[Tensor, "n *d"], eps: Float[Tensor, "n *d"], log_snr: Float[Tensor, " n"]
) -> Float[Tensor, "n *d"]:
    """x_t = α x + σ ε."""
    return per_sample(alpha(log_snr), x) * x + per_sample(sigma(log_snr), x) * eps


def velocity(
    x: Float[Tensor, "n *d"], eps: Float[Tensor, "n *d"], log_snr: Float[Tensor, " n"]
) -> Float[Tensor, "n *d"]:
    """v = α ε − σ x, what the networks predict."""
    return per_sample(alpha(log_snr), x) * eps - per_sample(sigma(log_snr), x) * x


def x_from_v(
    x_t: Float[Tensor, "n *d"], v: Float[Tensor, "n *d"], log_snr: Float[Tensor, " n"]
) -> Float[Tensor, "n *d"]:
    """x̂ = α x_t − σ v̂."""
    return per_sample(alpha(log_snr), v) * x_t - per_sample(sigma(log_snr), v) * v


def eps_from_v(
    x_t: Float[Tensor, "n *d"], v: Float[Tensor, "n *d"], log_snr: Float[Tensor, " n"]
) -> Float[Tensor, "n *d"]:
    """ε̂ = σ x_t + α v̂."""
    return per_sample(sigma(log_snr), v) * x_t + per_sample(alpha(log_snr), v) * v


def elbo(
    v: Float[Tensor, "n *d"],
    v_hat: Float[Tensor, "n *d"],
    t: Float[Tensor, " n"],
    schedule: Schedule,
) -> Float[Tensor, " n"]:
    """½ (−dλ/dt) e^λ ‖x − x̂‖², the unweighted bound's integrand, in nats.

    ‖x − x̂‖² = σ² ‖v − v̂‖² and e^λ σ² = α², so no large factor meets a small difference.
    """
    return weighted_error(v, v_hat, schedule.log_snr(t), schedule.rate(t))


def sigmoid_weighted(
    v: Float[Tensor, "n *d"],
    v_hat: Float[Tensor, "n *d"],
    t: Float[Tensor, " n"],
    schedule: Schedule,
    bias: float,
) -> Float[Tensor, " n"]:
    """½ (−dλ/dt) sigmoid(b − λ) ‖ε − ε̂‖², the decoder's and the base model's integrand.

    The ELBO's integrand times sigmoid(b − λ); the paper prints the sigmoid inverted
    (arXiv 2602.17270, Fig. 3).
    """
    return weighted_error(v, v_hat, schedule.log_snr(t), schedule.rate(t), bias)


def kl_to_standard_normal(x: Float[Tensor, "n *d"], log_snr: float) -> Float[Tensor, " n"]:
    """KL[ N(α x, σ²) ‖ N(0, I) ] = ½ Σ_i (α² x_i² + σ² − 1 − ln σ²), in nats, at one level."""
    alpha2, sigma2 = 1 / (1 + math.exp(-log_snr)), 1 / (1 + math.exp(log_snr))
    constant = sigma2 - 1 - math.log(sigma2)
    return 0.5 * (alpha2 * x.float().square() + constant).flatten(1).sum(1)
