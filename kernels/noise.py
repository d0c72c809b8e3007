"""Noise is a function, not a stream: Philox 4x32-10 words and the normals made of them.

A sample's noise is a function of `(seed, sample, step, stage)` alone, so it never depends on the
batch it is computed in, nor on whether the run was interrupted.

    key     = (seed mod 2^32, seed div 2^32)
    counter = (element div 4, step, sample, stage),  lane = element mod 4
    u       = (word + 1/2) 2^-32,  words (0, 1) and (2, 3) give one Box-Muller pair each

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(counter: Int[Tensor, "*n 4"], key: Int[Tensor, "*#n 2"]) -> Int[Tensor, "*n 4"]:
    """Philox 4x32-10: four 32-bit words (held in int64) for each counter under its key.

    A wrapped int64 product has the bits of the exact 64-bit product, so the high word is
    an arithmetic shift and a mask.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_and_(_WORD).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (p0 >> 32).bitwise_and_(_WORD).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = p1.bitwise_and_(_WORD), p0.bitwise_and_(_WORD)
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack((c0, c1, c2, c3), -1)


def _uniforms(
    seed: Int[Tensor, "*#n"],
    sample: Int[Tensor, "*#n"],
    step: Int[Tensor, "*#n"],
    stage: int,
    size: int,
) -> Float[Tensor, "*batch blocks 4"]:
    """Uniforms in (0, 1] of every block of four elements; the batch dimensions broadcast."""
    block = torch.arange(-(-size // 4), device=seed.device)
    seed, sample, step = torch.broadcast_tensors(
        seed[..., None], sample[..., None], step[..., None]
    )
    counter = torch.broadcast_tensors(block, step, sample, torch.full_like(sample, stage))
    key = torch.stack((seed & _WORD, (seed >> 32) & _WORD), -1)
    return (philox(torch.stack(counter, -1), key).float() + 0.5) * 2.0**-32


def uniform(seed: Tensor, sample: Tensor, step: Tensor, stage: int, size: int) -> Tensor:
    """Uniforms in (0, 1], fp32, shape [*n, size]; the int64 `seed`, `sample`, `step` broadcast."""
    return _uniforms(seed, sample, step, stage, size).flatten(-2)[..., :size]


def normal(seed: Tensor, sample: Tensor, step: Tensor, stage: int, size: int) -> Tensor:
    """Standard normals, fp32, shape [*n, size]; the int64 `seed`, `sample`, `step` broadcast.

    The order of the fp32 operations is part of the definition: another implementation of it
    differs only by its log, sqrt, sin and cos.
    """
    u = _uniforms(seed, sample, step, stage, size)
    radius = (-2.0 * u[..., 0::2].log()).sqrt()
    angle = (2.0 * math.pi) * u[..., 1::2]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), -1)
    return pairs.flatten(-3)[..., :size]


class Keys(NamedTuple):
    """Whose noise it is, int64 [n] each; `stage` is one for the batch."""

    seed: Int[Tensor, " n"]
    sample: Int[Tensor, " n"]
    step: Int[Tensor, " n"]
    stage: int

    def normal(self, like: Tensor) -> Tensor:
        """ε of the shape of `like`, fp32."""
        eps = normal(self.seed, self.sample, self.step, self.stage, like[0].numel())
        return eps.reshape(like.shape)

    @property
    def keys(self) -> Keys:
        """These: keys are a `Noise` whose normals are drawn when asked for."""
        return self


@runtime_checkable
class Noise(Protocol):
    """Rows of noise: their keys, and their normals by whatever way is cheapest without a kernel."""

    @property
    def keys(self) -> Keys: ...

    def normal(self, like: Tensor) -> Tensor: ...


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def diffuse(x: Float[Tensor, "n *d"], log_snr: Float[Tensor, " n"], keys: Keys) -> Tensor:
    """α x + σ ε with ε from the keys, in x's dtype; α = √sigmoid(λ), σ = √sigmoid(−λ)."""
    alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    return (_column(alpha, x) * x + _column(sigma, x) * keys.normal(x)).to(x.dtype)


class Stepped(NamedTuple):
    """After one sampler step: x_s, and x̂ for a solver of second order."""

    x_s: Float[Tensor, "n *d"]
    x_hat: Float[Tensor, "n *d"]


class Step(NamedTuple):
    """Each row's step: λ_t, and x_s = a x_t + b x̂ + c x̂_previous + d ε."""

    log_snr: Float[Tensor, " n"]
    coefficients: Float[Tensor, "n 4"]


class Guidance(NamedTuple):
    """v̂ = v_u + w (v_c − v_u) in the rows that have an unconditional prediction v_u."""

    unconditional: Float[Tensor, "m *d"]
    scale: Float[Tensor, " m"]
    rows: Int[Tensor, " m"] | None = None
    """Which rows those are, each once; None: all of them, in order."""

    def applied(self, conditional: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        """v̂ of every row; those without guidance keep v_c."""
        own = conditional if self.rows is None else conditional[self.rows]
        scale = _column(self.scale, own)
        guided = self.unconditional + scale * (own - self.unconditional)
        return guided if self.rows is None else conditional.index_copy(0, self.rows, guided)


def guided_step(
    x_t: Float[Tensor, "n *d"],
    conditional: Float[Tensor, "n *d"],
    previous: Float[Tensor, "n *d"],
    step: Step,
    noise: Noise,
    guidance: Guidance | None = None,
    *,
    clip: bool,
) -> Stepped:
    """v̂ by guidance; x̂ = α x_t − σ v̂, held to [−1, 1] if `clip`; then the step.

    The sampler and the rule of a stage's last step are in the coefficients.
    """
    v_hat = conditional if guidance is None else guidance.applied(conditional)
    return advance(x_t, v_hat, previous, step, noise.normal(x_t), clip=clip)


def advance(
    x_t: Float[Tensor, "n *d"],
    v_hat: Float[Tensor, "n *d"],
    previous: Float[Tensor, "n *d"],
    step: Step,
    eps: Float[Tensor, "n *d"],
    *,
    clip: bool,
) -> Stepped:
    """One step of every row from v̂ and its noise."""
    alpha, sigma = step.log_snr.sigmoid().sqrt(), (-step.log_snr).sigmoid().sqrt()
    x_hat = _column(alpha, x_t) * x_t - _column(sigma, x_t) * v_hat
    if clip:
        x_hat = x_hat.clamp(-1, 1)
    a, b, c, d = (_column(each, x_t) for each in step.coefficients.unbind(-1))
    x_s = a * x_t + b * x_hat + c * previous + d * eps
    return Stepped(x_s.to(x_t.dtype), x_hat.to(x_t.dtype))
