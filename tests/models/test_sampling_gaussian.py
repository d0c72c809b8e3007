"""Samplers on Gaussians and points: closed recursions that each publication implies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from unified_latents.models.sampling import (
    Denoiser,
    NoiseKeys,
    SamplerName,
    Stage,
    plan,
    sample,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule, Schedule

_LATENT = LinearSchedule(-10.0, 5.0)
_IMAGE = CosineSchedule(-10.0, 10.0)
_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)
_ALPHA2_0 = 1 / (1 + math.exp(-5))

Gaussian = Callable[..., nn.Module]
every_sampler = pytest.mark.parametrize("name", _NAMES)


def keys(n: int, seed: int = 3, stage: Stage = Stage.BASE) -> NoiseKeys:
    return NoiseKeys(torch.full((n,), seed), torch.arange(n), stage)


def levels(schedule: Schedule, steps: int, *, to_mean: bool = False) -> list[tuple[float, float]]:
    """(α, σ) at each of the steps + 1 levels, from the noisiest; written apart from `plan`."""
    result = []
    for k in range(steps + 1):
        t = torch.tensor(1 - k / steps, dtype=torch.float64)
        log_snr = schedule.log_snr(t).item()
        result.append(tuple(math.sqrt(1 / (1 + math.exp(s * log_snr))) for s in (-1, 1)))
    if to_mean:
        result[-1] = (1.0, 0.0)
    return [(a, s) for a, s in result]


def one_step(
    name: SamplerName, k: int, path: list[tuple[float, float]]
) -> tuple[float, float, float, float]:
    """Weights of x_t, x̂, the previous x̂ and the noise, from each sampler's own publication.

    Ancestral: the Gaussian posterior of DDPM with its fixed small variance (Ho et al., 2020,
    equations 6 and 7). DDIM: x_s = α_s x̂ + σ_s ε̂. DPM-Solver++(2M): algorithm 2 of Lu et al.
    (2022), whose λ = log(α/σ).
    """
    (a_t, s_t), (a_s, s_s) = path[k], path[k + 1]
    if name == "ancestral":
        ratio2 = (a_t / a_s) ** 2
        noise = math.sqrt((s_s / s_t) ** 2 * (1 - ratio2))
        return a_t / a_s * (s_s / s_t) ** 2, a_s * (1 - ratio2) / s_t**2, 0.0, noise
    first = a_s - s_s * a_t / s_t
    if name == "ddim" or k == 0 or s_s == 0:
        return s_s / s_t, first, 0.0, 0.0
    before, now, after = (math.log(a / s) for a, s in path[k - 1 : k + 2])
    r = (now - before) / (after - now)
    factor = -a_s * math.expm1(-(after - now))
    return s_s / s_t, factor * (1 + 1 / (2 * r)), -factor / (2 * r), 0.0


def closed_variance(
    name: SamplerName,
    schedule: Schedule,
    steps: int,
    std: float,
    *,
    to_mean: bool = False,
    start: float = 1.0,
) -> float:
    """Var(x) at the end for x ~ N(0, std²) under its exact denoiser x̂ = g x_t.

    The pair (x, previous x̂) is linear in Gaussians, so its 2×2 covariance obeys a recursion.
    """
    path = levels(schedule, steps, to_mean=to_mean)
    xx, xp, pp = start, 0.0, 0.0
    for k in range(steps):
        a, b, c, d = one_step(name, k, path)
        alpha, sigma = path[k]
        g = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        m = a + b * g
        xx, xp, pp = (
            m * m * xx + 2 * m * c * xp + c * c * pp + d * d,
            g * (m * xx + c * xp),
            g * g * xx,
        )
    return xx


def run(
    name: SamplerName, schedule: Schedule, steps: int, denoiser: Denoiser, *, to_mean: bool = False
) -> Tensor:
    """125 000 end values, fp64."""
    steps_ = plan(schedule, steps, name, to_mean=to_mean)
    return sample(denoiser, keys(250), (500,), steps_, clip=False).double()


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("to_mean", [False, True])
@pytest.mark.parametrize("schedule", [_LATENT, _IMAGE], ids=["linear", "cosine"])
def test_coefficients_are_the_published_ones(
    name: SamplerName, steps: int, to_mean: bool, schedule: Schedule
) -> None:
    got = plan(schedule, steps, name, to_mean=to_mean)
    path = levels(schedule, steps, to_mean=to_mean)
    want = torch.tensor([one_step(name, k, path) for k in range(steps)], dtype=torch.float64)
    torch.testing.assert_close(got.coefficients.double(), want, rtol=2e-6, atol=1e-7)
    log_snr = torch.tensor([2 * math.log(a / s) for a, s in path[:-1]], dtype=torch.float64)
    torch.testing.assert_close(got.log_snr.double(), log_snr, rtol=1e-6, atol=1e-6)


@every_sampler
@pytest.mark.parametrize(("std", "steps"), [(0.5, 20), (1.0, 5), (1.0, 50), (2.0, 20)])
def test_variance_on_a_gaussian_is_the_closed_recursion(
    name: SamplerName, std: float, steps: int, gaussian: Gaussian
) -> None:
    """125 000 values: the variance is known to √(2/n) = 0.4 %; five times that."""
    x = run(name, _LATENT, steps, gaussian(std))
    want = closed_variance(name, _LATENT, steps, std)
    assert x.var().item() == pytest.approx(want, rel=0.02)
    assert abs(x.mean().item()) < 5 * math.sqrt(want / x.numel())


@every_sampler
def test_mean_of_a_shifted_gaussian(name: SamplerName, gaussian: Gaussian) -> None:
    x = run(name, _LATENT, 20, gaussian(0.5, 1.5))
    assert x.mean().item() == pytest.approx(1.5 * math.sqrt(_ALPHA2_0), abs=0.02)


@every_sampler
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_converges_to_the_law_of_z_0(name: SamplerName, std: float) -> None:
    """α_0² s² + σ_0², its noise included; the error falls at each sampler's own order.

    Started from the true law of z_1: a deterministic sampler would carry N(0, 1)'s
    difference from it, (s² − 1) α_1², to the end.
    """
    alpha2_1 = 1 / (1 + math.exp(10))
    start = alpha2_1 * std**2 + 1 - alpha2_1
    target = _ALPHA2_0 * std**2 + 1 - _ALPHA2_0
    coarse, fine = (
        abs(closed_variance(name, _LATENT, steps, std, start=start) / target - 1)
        for steps in (400, 1600)
    )
    order = 2 if name == "dpmpp-2m" else 1
    assert fine < (0.006 if order == 1 else 1e-4)
    assert coarse / fine == pytest.approx(4**order, rel=0.15)


@pytest.mark.parametrize(
    ("name", "steps", "kept"),
    [
        ("ancestral", 50, 86.5),
        ("ancestral", 250, 97.1),
        ("ddim", 50, 92.8),
        ("dpmpp-2m", 50, 100.3),
        ("dpmpp-2m", 20, 101.5),
    ],
)
def test_variance_kept_as_printed(name: SamplerName, steps: int, kept: float) -> None:
    """Known figures: unit variance, linear λ from −10 to 5; in percent."""
    coefficients = plan(_LATENT, steps, name, to_mean=False)
    xx, xp, pp = 1.0, 0.0, 0.0
    for row, log_snr in zip(coefficients.coefficients.double(), coefficients.log_snr, strict=True):
        a, b, c, d = row.tolist()
        g = math.sqrt(torch.sigmoid(log_snr.double()).item())
        m = a + b * g
        xx, xp, pp = (
            m * m * xx + 2 * m * c * xp + c * c * pp + d * d,
            g * (m * xx + c * xp),
            g * g * xx,
        )
    assert 100 * xx == pytest.approx(kept, abs=0.051)
    assert xx == pytest.approx(closed_variance(name, _LATENT, steps, 1.0), rel=1e-5)


@every_sampler
@pytest.mark.parametrize("steps", [1, 4, 25])
def test_point_mass(name: SamplerName, steps: int, gaussian: Gaussian) -> None:
    """Whatever the step count: mean α_0 μ and variance σ_0², up to what is left of x_1.

    DDIM and 2M carry x_1's own unit variance instead of σ_1², hence the factor 1/σ_1².
    """
    x = run(name, _LATENT, steps, gaussian(0.0, 0.7))
    spread = math.sqrt(1 - _ALPHA2_0)
    assert x.mean().item() == pytest.approx(0.7 * math.sqrt(_ALPHA2_0), abs=5 * spread / 350 + 5e-4)
    assert x.var().item() == pytest.approx(spread**2, rel=0.02)


@every_sampler
def test_decoder_variance_is_the_closed_recursion(name: SamplerName, gaussian: Gaussian) -> None:
    x = run(name, _IMAGE, 15, gaussian(0.6), to_mean=True)
    want = closed_variance(name, _IMAGE, 15, 0.6, to_mean=True)
    assert x.var().item() == pytest.approx(want, rel=0.02)
