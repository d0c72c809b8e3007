"""The weighted ε-MSE of one sample from v and v̂, in nats: reference.

    ½ (−dλ/dt) w(λ) ‖ε − ε̂‖²,   ‖ε − ε̂‖² = α² ‖v − v̂‖²,   α² = sigmoid(λ)

w = 1 is the ELBO's integrand, w = sigmoid(b − λ) the decoder's and the base model's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def weights(
    log_snr: Float[Tensor, " n"], rate: Float[Tensor, " n"], bias: float | None
) -> Float[Tensor, " n"]:
    """½ (−dλ/dt) α² w(λ); `rate` is −dλ/dt, `bias` None is the ELBO."""
    elbo = 0.5 * rate * torch.sigmoid(log_snr)
    return elbo if bias is None else elbo * torch.sigmoid(bias - log_snr)


def weighted_error(
    v: Float[Tensor, "n *d"],
    v_hat: Float[Tensor, "n *d"],
    log_snr: Float[Tensor, " n"],
    rate: Float[Tensor, " n"],
    bias: float | None = None,
) -> Float[Tensor, " n"]:
    """[n] nats, sums over a sample's dimensions in the wider of v's and λ's precision."""
    precision = torch.promote_types(v.dtype, log_snr.dtype)
    error = (v.to(precision) - v_hat.to(precision)).square().flatten(1).sum(1)
    elbo = weights(log_snr, rate, None) * error
    return elbo if bias is None else torch.sigmoid(bias - log_snr) * elbo
