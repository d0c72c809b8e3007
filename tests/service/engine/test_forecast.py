from __future__ import annotations

import pytest

from tests.service.engine.test_client import HOW, generate
from unified_latents.service.engine.forecast import (
    CostTable,
    Forecast,
    Key,
    Load,
    finishes,
    legs,
    row_steps,
)
from unified_latents.service.engine.messages import Array, Decode, Encode, Trajectory
from unified_latents.service.engine.telemetry import Cost, StageName

TEN = Trajectory(10, "ddim")
ONE_STAGE = generate(base=TEN, decode=None, guidance=1.0)


def cost(stage: StageName, bucket: int, seconds: float) -> Cost:
    return Cost("m", True, stage, bucket, float(bucket), seconds)


def flat(capacity: int = 32) -> Forecast:
    """A machine on which a full pass takes as long as a pass of one."""
    return Forecast(CostTable([cost("base", 1, 1.0), cost("base", 32, 1.0)]), capacity)


def linear(capacity: int = 32) -> Forecast:
    """A machine on which rows cost the same together and apart."""
    return Forecast(CostTable([cost("base", 1, 1.0), cost("base", 32, 32.0)]), capacity)


def test_legs_and_row_steps_of_every_request() -> None:
    image = Array((1, 1, 1), "uint8", b"0")
    latents = Array((3, 1, 1, 1), "float32", bytes(12))
    encode = Encode(0, "m", True, 1, image, "z_clean", 65)
    assert legs(encode) == [("encode", 1, 1), ("rate", 2, 1)]
    assert row_steps(encode) == 3
    assert row_steps(Decode(0, "m", True, 1, 0, latents, "z_0", HOW)) == 9
    assert row_steps(generate(n=2, base=TEN, decode=HOW, guidance=2.0)) == 2 * (20 + 3)
    assert row_steps(ONE_STAGE) == 10


def test_costs_lie_on_straight_lines_between_what_was_measured() -> None:
    table = CostTable([cost("base", 2, 4.0), cost("base", 8, 10.0)])
    key = Key("m", True, "base")
    assert [table.seconds(key, rows) for rows in (1, 2, 5, 8, 16)] == [2.0, 4.0, 7.0, 10.0, 20.0]
    assert table.seconds(key._replace(strict=False), 2) == 4.0
    assert table.seconds(key._replace(stage="decode"), 2) is None


def test_alone_a_request_takes_its_steps() -> None:
    for forecast in (flat(), linear()):
        load = forecast.load(ONE_STAGE)
        assert load is not None
        assert forecast.etas([(ONE_STAGE, load)]) == [10.0]


@pytest.mark.parametrize(("forecast", "expected"), [(flat(), 10.0), (linear(), 40.0)])
def test_four_together_take_what_their_shared_passes_take(
    forecast: Forecast, expected: float
) -> None:
    load = forecast.load(ONE_STAGE)
    assert load is not None
    assert forecast.etas([(ONE_STAGE, load)] * 4) == [expected] * 4
    assert forecast.etas([(ONE_STAGE, load)] * 4, bias=1.5) == [1.5 * expected] * 4


def test_beyond_the_capacity_requests_wait_for_each_other() -> None:
    forecast = flat(capacity=2)
    load = forecast.load(ONE_STAGE)
    assert load is not None
    assert forecast.etas([(ONE_STAGE, load)] * 4) == [20.0] * 4


def test_a_short_request_does_not_wait_for_the_end_of_a_long_one() -> None:
    done = finishes([Load(1, 1, 2.0), Load(1, 1, 10.0)], lambda count: count)
    assert done == [4.0, 12.0]


def test_a_better_class_is_waited_for_and_does_not_wait() -> None:
    done = finishes([Load(1, 1, 2.0), Load(0, 2, 5.0)], lambda count: count)
    assert done == [12.0, 10.0]
