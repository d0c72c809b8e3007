"""Schedules: their ends, their slope against autograd and differences, their integral."""

from __future__ import annotations

import math

import pytest
import torch

from unified_latents.models.schedule import CosineSchedule, LinearSchedule, Schedule

_SCHEDULES: list[Schedule] = [
    LinearSchedule(-10.0, 5.0),
    LinearSchedule(-2.0, 5.0),
    CosineSchedule(-10.0, 10.0),
    CosineSchedule(-15.0, 15.0),
    CosineSchedule(-10.0, 10.0, shift=3.0),
    CosineSchedule(-15.0, 10.0, shift=-2 * math.log(512 / 64)),
]
_IDS = [repr(schedule) for schedule in _SCHEDULES]
every_schedule = pytest.mark.parametrize("schedule", _SCHEDULES, ids=_IDS)


def times(n: int) -> torch.Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64)


@every_schedule
def test_clean_end_is_t_0_and_noisy_end_is_t_1(schedule: Schedule) -> None:
    levels = schedule.log_snr(times(2))
    want = torch.tensor([schedule.lambda_max, schedule.lambda_min], dtype=torch.float64)
    torch.testing.assert_close(levels, want, rtol=0, atol=1e-9)


@every_schedule
def test_ends_in_fp32(schedule: Schedule) -> None:
    """At λ = ±15 an angle is 5e-4 away from 0 or π/2: fp32 keeps λ to 2 · 2^-24 · π/2 / 5.5e-4."""
    levels = schedule.log_snr(torch.tensor([0.0, 1.0]))
    want = torch.tensor([schedule.lambda_max, schedule.lambda_min], dtype=torch.float32)
    torch.testing.assert_close(levels, want, rtol=0, atol=1e-3)


@every_schedule
def test_log_snr_falls_strictly(schedule: Schedule) -> None:
    assert (schedule.log_snr(times(1001)).diff() < 0).all()


@every_schedule
def test_rate_is_minus_the_derivative_by_autograd(schedule: Schedule) -> None:
    t = times(101).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    torch.testing.assert_close(schedule.rate(t.detach()), -slope, rtol=1e-9, atol=0)


@every_schedule
def test_rate_is_minus_the_central_difference(schedule: Schedule) -> None:
    t, h = times(101)[1:-1], 1e-5
    difference = (schedule.log_snr(t - h) - schedule.log_snr(t + h)) / (2 * h)
    torch.testing.assert_close(schedule.rate(t), difference, rtol=1e-5, atol=0)
    assert (schedule.rate(t) > 0).all()


@every_schedule
def test_rate_integrates_to_the_range(schedule: Schedule) -> None:
    """∫₀¹ −dλ/dt dt = λ_max − λ_min, by the midpoint rule where the rate is smooth."""
    total = schedule.rate((times(200_001)[:-1] + times(200_001)[1:]) / 2).mean().item()
    assert total == pytest.approx(schedule.lambda_max - schedule.lambda_min, rel=1e-5)


@every_schedule
def test_shape_and_precision_follow_t(schedule: Schedule) -> None:
    for t in (torch.rand(3), torch.rand(2, 5, dtype=torch.float64)):
        for result in (schedule.log_snr(t), schedule.rate(t)):
            assert result.shape == t.shape
            assert result.dtype == t.dtype


def test_linear_is_linear() -> None:
    torch.testing.assert_close(
        LinearSchedule(-10.0, 5.0).log_snr(torch.tensor([0.0, 0.2, 0.5, 1.0])),
        torch.tensor([5.0, 2.0, -2.5, -10.0]),
    )


def test_unshifted_symmetric_cosine_is_symmetric() -> None:
    """α and σ swap with t and 1 − t, and λ(½) = 0."""
    schedule, t = CosineSchedule(-10.0, 10.0), times(11)
    torch.testing.assert_close(schedule.log_snr(t), -schedule.log_snr(1 - t))


def test_untruncated_cosine_is_the_published_one() -> None:
    """α = cos(π t / 2) where no end is cut off (Nichol & Dhariwal, 2021)."""
    t = times(99)[1:-1]
    log_snr = CosineSchedule(-40.0, 40.0).log_snr(t)
    alpha = torch.sigmoid(log_snr).sqrt()
    torch.testing.assert_close(alpha, torch.cos(math.pi / 2 * t), rtol=1e-6, atol=1e-7)


def test_shift_moves_log_snr_by_itself_where_no_end_is_cut() -> None:
    """Simple diffusion's shift for a resolution r: λ + 2 log(r_0 / r)."""
    t, shift = times(99)[1:-1], 2 * math.log(64 / 512)
    shifted = CosineSchedule(-40.0, 40.0, shift).log_snr(t)
    torch.testing.assert_close(
        shifted, CosineSchedule(-40.0, 40.0).log_snr(t) + shift, rtol=0, atol=1e-5
    )


def test_a_negative_shift_is_noisier_everywhere_inside() -> None:
    t = times(101)[1:-1]
    plain, noisier = CosineSchedule(-10.0, 10.0), CosineSchedule(-10.0, 10.0, -2.0)
    assert (noisier.log_snr(t) < plain.log_snr(t)).all()


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
@pytest.mark.parametrize(("low", "high"), [(5.0, -10.0), (1.0, 1.0), (float("nan"), 1.0)])
def test_an_empty_range_is_refused(
    kind: type[LinearSchedule] | type[CosineSchedule], low: float, high: float
) -> None:
    with pytest.raises(ValueError, match="lambda_min must be below lambda_max"):
        kind(low, high)
