from __future__ import annotations

import msgspec
import pytest

from tests.service.engine.test_forecast import ONE_STAGE, cost
from unified_latents.service.engine.outlook import Outlook
from unified_latents.service.engine.telemetry import Costs

LINEAR = Costs((cost("base", 1, 1.0), cost("base", 32, 32.0)), bias=2.0)
TIMED = msgspec.structs.replace(ONE_STAGE, timeout=30.0)


def outlook() -> Outlook:
    """Of a machine on which rows cost the same together and apart; a request is ten passes."""
    made = Outlook(32)
    made.learn(LINEAR)
    return made


def test_a_parent_counts_what_is_in_flight_and_what_is_done_of_it() -> None:
    assert Outlook(32).eta(ONE_STAGE, 0.0) is None
    made = outlook()
    margin = made.eta(ONE_STAGE, 0.0) / 10.0  # type: ignore[operator]
    made.enter(1, ONE_STAGE, 0.0)
    together = made.eta(ONE_STAGE, 0.0)
    assert together is not None
    assert together / margin == pytest.approx(10 + 10 + 20 / 2)  # both rows, and its own chain
    made.progress(1, 0.5)
    assert (made.eta(ONE_STAGE, 0.0) or 0) < together
    made.leave(1)
    made.leave(1)
    assert made.eta(ONE_STAGE, 0.0) == margin * 10.0


def test_a_new_engine_that_knows_little_takes_nothing_away() -> None:
    made = outlook()
    before = made.eta(ONE_STAGE, 0.0)
    made.learn(Costs(()))
    assert made.eta(ONE_STAGE, 0.0) == before
    slower = (cost("base", 1, 2.0), cost("base", 32, 64.0))
    made.learn(Costs(slower))
    assert made.costs.costs == slower


def test_promises_that_were_not_kept_make_the_next_more_cautious() -> None:
    made = outlook()
    before = made.eta(TIMED, 0.0)
    for number, end in ((1, None), (2, 10.0), (3, 25.0), (4, 100.0)):
        made.enter(number, TIMED, 0.0)
        made.leave(number, end)
        after = made.eta(TIMED, 0.0)
        assert before is not None
        assert after is not None
        assert (after > before) == (end is not None and end > 15)
        before = after
