from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from unified_latents.models import sampling
from unified_latents.models.schedule import LinearSchedule
from unified_latents.service.engine.forecast import guided_steps, row_steps
from unified_latents.service.engine.messages import Generate, Trajectory

level = st.one_of(st.integers(-12, 6), st.floats(-12, 6, width=32))


@given(st.integers(1, 60), level, level)
def test_guided_steps_are_those_of_the_trajectory(steps: int, one: float, other: float) -> None:
    """What is charged for an interval is what the engine runs, but for a level that it ends on."""
    interval = (float(min(one, other)), float(max(one, other)))
    schedule = LinearSchedule(-10.0, 5.0)
    how = Trajectory(steps, "ddim")
    request = Generate(0, "m", True, 1, 0, 1, 0, how, 2.0, interval, None, levels=(-10.0, 5.0))
    plan = sampling.plan(schedule, steps, "ddim", to_mean=False)
    assume(all(abs(x - end) > 1e-6 for x in plan.log_snr.tolist() for end in interval))
    guided = sum(interval[0] <= x <= interval[1] for x in plan.log_snr.tolist())
    assert guided_steps(request) == guided
    assert row_steps(request) == steps + guided
