"""Samplers as four coefficients, and the one loop over them.

A step from λ_t to the cleaner λ_s is  x_s = a x_t + b x̂ + c x̂_previous + d ε.  A sampler is a
function from log-SNRs to (a, b, c, d); everything is per row, so rows of different requests,
steps and samplers share one batch (arXiv 2602.17270).

The two stages end differently, and the last λ_s says how: a latent ends at λ(0) with its noise,
a decoded image at λ = +∞, where every sampler returns x̂.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unified_latents.kernels import noise
from unified_latents.kernels.dispatch import guided_step, normal
from unified_latents.kernels.noise import Guidance, Keys, Noise, Step
from unified_latents.models.diffusion import alpha, sigma
from unified_latents.models.schedule import Schedule

SamplerName = Literal["ancestral", "ddim", "dpmpp-2m"]


class Prediction(NamedTuple):
    """v̂ of every row, and what is to guide it."""

    conditional: Float[Tensor, "n *d"]
    guidance: Guidance


def combined(predicted: Tensor | Prediction) -> Tensor:
    """v̂ with its guidance applied."""
    if isinstance(predicted, Prediction):
        return predicted.guidance.applied(predicted.conditional)
    return predicted


Denoiser = Callable[[Tensor, Tensor], Tensor | Prediction]
"""(x_t [n, …], λ_t [n]) → v̂ [n, …], guided or not."""


class Stage(IntEnum):
    """The last word of a noise key's counter: what the noise is for."""

    BASE = 0
    DECODE = 1
    LATENT = 2
    """The ε that turns z_clean into z_0."""
    BITRATE = 3


class Coefficients(NamedTuple):
    x_t: Tensor
    x_hat: Tensor
    previous: Tensor
    noise: Tensor


def ancestral(lam_t: Tensor, lam_s: Tensor, lam_previous: Tensor) -> Coefficients:
    """The exact posterior's mean and variance: c = −expm1(λ_t − λ_s), var = σ_s² c."""
    c = -torch.expm1(lam_t - lam_s)
    return Coefficients(
        x_t=alpha(lam_s) * (1 - c) / alpha(lam_t),
        x_hat=alpha(lam_s) * c,
        previous=torch.zeros_like(c),
        noise=sigma(lam_s) * c.sqrt(),
    )


def ddim(lam_t: Tensor, lam_s: Tensor, lam_previous: Tensor) -> Coefficients:
    """x_s = α_s x̂ + σ_s ε̂ (Song et al., 2020): DPM-Solver++ of first order."""
    ratio = sigma(lam_s) / sigma(lam_t)
    zero = torch.zeros_like(ratio)
    return Coefficients(ratio, alpha(lam_s) - ratio * alpha(lam_t), zero, zero)


def dpmpp_2m(lam_t: Tensor, lam_s: Tensor, lam_previous: Tensor) -> Coefficients:
    """DPM-Solver++(2M) (Lu et al., 2022): x̂ extrapolated from the previous step's.

    Of first order where there is no previous step (λ_previous = −∞) and on a step to λ = +∞.
    """
    first = ddim(lam_t, lam_s, lam_previous)
    half_inverse_r = (lam_s - lam_t) / (2 * (lam_t - lam_previous))
    half_inverse_r = torch.where(torch.isinf(lam_s), 0.0, half_inverse_r)
    return Coefficients(
        x_t=first.x_t,
        x_hat=first.x_hat * (1 + half_inverse_r),
        previous=-first.x_hat * half_inverse_r,
        noise=first.noise,
    )


SAMPLERS: dict[SamplerName, Callable[[Tensor, Tensor, Tensor], Coefficients]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpmpp-2m": dpmpp_2m,
}


@dataclass(frozen=True)
class Plan:
    """One sample's whole trajectory: λ at each evaluation, and each step's coefficients."""

    log_snr: Float[Tensor, " k"]
    coefficients: Float[Tensor, "k 4"]

    @property
    def steps(self) -> int:
        return len(self.log_snr)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """λ at each evaluation, as numbers of the host."""
        return tuple(self.log_snr.tolist())

    @cached_property
    def draws(self) -> int:
        """Draws of noise that it needs: the start, and up to the last step that adds any."""
        noisy: list[int] = self.coefficients[:, 3].nonzero().flatten().tolist()
        return max(noisy, default=-1) + 2


def plan(schedule: Schedule, steps: int, sampler: SamplerName, *, to_mean: bool) -> Plan:
    """`steps` evaluations at t uniform in (0, 1]; `to_mean`: the last step returns x̂.

    Computed in fp64 and rounded once. `steps` ≥ 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    levels = schedule.log_snr(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    if to_mean:
        levels[-1] = torch.inf
    before = torch.cat((levels.new_tensor([-torch.inf]), levels[:-2]))
    coefficients = SAMPLERS[sampler](levels[:-1], levels[1:], before)
    return Plan(levels[:-1].float(), torch.stack(coefficients, -1).float())


class State(NamedTuple):
    """What a trajectory carries from step to step; rows are independent."""

    x_t: Float[Tensor, "n *d"]
    previous: Float[Tensor, "n *d"]
    """x̂ of the step before; zeros at the start."""


def advance(
    state: State,
    v_hat: Float[Tensor, "n *d"],
    log_snr: Float[Tensor, " n"],
    coefficients: Float[Tensor, "n 4"],
    eps: Float[Tensor, "n *d"],
    *,
    clip: bool,
) -> State:
    """One step of every row; `clip` holds x̂ to the data range [−1, 1]."""
    row = Step(log_snr, coefficients)
    return State(*noise.advance(state.x_t, v_hat, state.previous, row, eps, clip=clip))


def step(
    state: State, predicted: Tensor | Prediction, row: Step, keys: Noise, *, clip: bool
) -> State:
    """`guide` and `advance` of every row by its own noise: one launch where kernels are fused."""
    v_hat, guidance = predicted if isinstance(predicted, Prediction) else (predicted, None)
    return State(*guided_step(state.x_t, v_hat, state.previous, row, keys, guidance, clip=clip))


def guide(
    conditional: Float[Tensor, "n *d"],
    unconditional: Float[Tensor, "n *d"],
    guidance: Float[Tensor, " n"],
) -> Float[Tensor, "n *d"]:
    """uncond + w (cond − uncond), the same for v̂, x̂ and ε̂; w = 1 is no guidance."""
    return Guidance(unconditional, guidance).applied(conditional)


@dataclass(frozen=True)
class NoiseKeys:
    """Who each row's noise belongs to; step 0 is the start, step k + 1 the noise of step k."""

    seed: Int[Tensor, " n"]
    sample: Int[Tensor, " n"]
    stage: Stage

    def at(self, step: int) -> Keys:
        """The keys of one step's noise."""
        return Keys(self.seed, self.sample, torch.full_like(self.seed, step), self.stage)

    def normal(self, step: int, shape: tuple[int, ...]) -> Float[Tensor, "n *d"]:
        """Standard normals of `shape` for each row."""
        return normal(self.at(step), torch.Size(shape).numel()).unflatten(1, shape)


def trajectory(
    denoiser: Denoiser, keys: NoiseKeys, shape: tuple[int, ...], plan: Plan, *, clip: bool
) -> Iterator[State]:
    """All rows from x_1 ~ N(0, I) along one plan; yields the state after each step."""
    start = keys.normal(0, shape)
    state = State(start, torch.zeros_like(start))
    for k in range(plan.steps):
        log_snr = plan.log_snr[k].to(start.device).expand(len(start))
        coefficients = plan.coefficients[k].to(start.device).expand(len(start), 4)
        predicted = denoiser(state.x_t, log_snr)
        state = step(state, predicted, Step(log_snr, coefficients), keys.at(k + 1), clip=clip)
        yield state


def sample(
    denoiser: Denoiser, keys: NoiseKeys, shape: tuple[int, ...], plan: Plan, *, clip: bool
) -> Float[Tensor, "n *d"]:
    """The end of a trajectory."""
    *_, last = trajectory(denoiser, keys, shape, plan, clip=clip)
    return last.x_t
