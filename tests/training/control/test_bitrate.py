"""The controller on a simulated run: ln rate follows g ln c_lf with a lag, noise and a drift."""

from __future__ import annotations

import math

import pytest
import torch

from unified_latents.training.control.bitrate import HIGHEST, LOWEST, Controller, Plan
from unified_latents.training.errors import TrainingError

_EVERY = 20


def simulate(
    controller: Controller, steps: int, *, gain: float = 0.7, noise: float = 0.0, drift: float = 0.0
) -> list[tuple[float, float]]:
    """(rate, c_lf) after each tick. At c_lf 5 the plant rests at 0.1 bits; it has a lag of 100."""
    random = torch.Generator().manual_seed(1)
    log_rate, seen = math.log(0.1), list[tuple[float, float]]()
    for done in range(_EVERY, steps + 1, _EVERY):
        rest = math.log(0.1) + gain * math.log(controller.loss_factor / 5) + drift * done / steps
        log_rate = rest + (log_rate - rest) * math.exp(-_EVERY / 100)
        error = noise * torch.randn((), generator=random).item()
        controller.observe(done, math.exp(log_rate + error), 1.0)
        seen.append((math.exp(log_rate), controller.loss_factor))
    return seen


@pytest.mark.parametrize("target", [0.06, 0.08, 0.1, 0.2])
@pytest.mark.parametrize("gain", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("steps", [600, 7000])
def test_the_rate_ends_at_the_target(target: float, gain: float, steps: int) -> None:
    controller = Controller(Plan(target, 0, steps * 2 // 3), 5.0)
    rate, _ = simulate(controller, steps, gain=gain, noise=0.03)[-1]
    assert rate == pytest.approx(controller.plan.aim, rel=0.05)


def test_short_runs_aim_above_their_target() -> None:
    aims = [Plan(0.1, 0, freeze).aim for freeze in (40, 400, 1200, 2000, 5000)]
    assert aims == sorted(aims, reverse=True)
    assert aims[0] == aims[1] == pytest.approx(0.1062, rel=1e-3)
    assert aims[-2:] == [0.1, 0.1]


def test_a_drift_while_it_may_move_is_followed() -> None:
    controller = Controller(Plan(0.1, 0, 4000), 5.0)
    rate, factor = simulate(controller, 4000, drift=-0.5)[-1]
    assert rate == pytest.approx(0.1, rel=0.05)
    assert factor > 5


def test_it_aims_by_the_averaged_networks() -> None:
    controller = Controller(Plan(0.1, 0, 1000), 5.0)
    for done in range(20, 400, 20):
        controller.observe(done, 0.1, 0.9)
    assert controller.rate == pytest.approx(0.09)
    assert controller.loss_factor > 5


def test_it_waits_for_the_warmup_and_freezes_for_the_last_third() -> None:
    controller = Controller(Plan(0.2, 300, 600), 5.0)
    factors = [factor for _, factor in simulate(controller, 900)]
    assert factors[: 300 // _EVERY] == pytest.approx([5.0] * (300 // _EVERY))
    assert len(set(factors[600 // _EVERY - 1 :])) == 1
    assert factors[600 // _EVERY - 1] > 5


def test_it_moves_slowly_and_within_bounds() -> None:
    up, down = (Controller(Plan(target, 0, 3000), 5.0) for target in (9.0, 1e-6))
    for controller, bound in ((up, HIGHEST), (down, LOWEST)):
        before = 5.0
        for done in range(20, 3000, 20):
            controller.observe(done, 0.1, 1.0)
            assert abs(math.log(controller.loss_factor / before)) <= 0.01 * _EVERY + 1e-9
            before = controller.loss_factor
        assert before == pytest.approx(bound)


def test_a_state_resumes_exactly() -> None:
    plan = Plan(0.05, 0, 600)
    whole, first, second = (Controller(plan, 5.0) for _ in range(3))
    for controller, ticks in ((whole, 30), (first, 13)):
        simulate(controller, ticks * _EVERY)
    second.load_state_dict(first.state_dict())
    assert second.loss_factor == first.loss_factor
    for done in (280, 300):
        first.observe(done, 0.07, 0.98)
        second.observe(done, 0.07, 0.98)
    assert second.state_dict() == first.state_dict() != whole.state_dict()


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_a_target_that_is_no_rate_is_refused(target: float) -> None:
    with pytest.raises(TrainingError, match="target"):
        Plan(target, 0, 10)


def test_a_warmup_that_leaves_no_time_is_refused() -> None:
    with pytest.raises(TrainingError, match="warm-up ends at 1800"):
        Plan(0.1, 1800, 400)
