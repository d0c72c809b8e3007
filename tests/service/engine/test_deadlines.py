from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.engine.test_client import HOW, generate
from tests.service.engine.test_forecast import cost
from unified_latents.service.engine.deadlines import (
    Due,
    Held,
    Margin,
    Pace,
    Part,
    Way,
    end,
    rest,
    way,
)
from unified_latents.service.engine.forecast import CostTable, Key
from unified_latents.service.engine.messages import Trajectory
from unified_latents.service.stepper.scheduler import Claim, Group, Scheduler

BASE = Part(Key("m", True, "base"), 1)
FLAT = CostTable([cost("base", 1, 1.0), cost("base", 32, 1.0)])


def test_what_is_done_is_taken_from_the_first_stage_on() -> None:
    whole = way(generate(n=2, base=Trajectory(9, "ddim"), decode=HOW, guidance=2.0))
    guided, decode = Part(BASE.key, 2), Part(Key("m", True, "decode"), 1)
    assert whole == Way(2, ((guided, 9.0), (decode, 3.0)))
    assert rest(whole, 0.5).passes == ((guided, 3.0), (decode, 3.0))
    assert rest(whole, 1.0).passes == ((guided, 0.0), (decode, 0.0))


def test_samples_share_passes_up_to_the_capacity() -> None:
    one, many = Way(1, ((BASE, 10.0),)), Way(64, ((BASE, 10.0),))
    for crowd, each in (([one], 10.0), ([one] * 4, 2.5), ([many], 10.0 / 32)):
        pace = Pace(FLAT, 32, crowd)
        assert pace.work(one) == pytest.approx(each)
        assert pace.chain(one) == 10.0


def test_nobody_is_made_late_by_one_who_is_due_earlier() -> None:
    """Alone it would end after ten seconds; behind the one that it would make late, after 20."""
    own = Way(1, ((BASE, 10.0),))
    pace = Pace(FLAT, 1, [own, own])
    for at, bound, expected in ((30.0, True, 10.0), (15.0, True, 20.0), (15.0, False, 10.0)):
        held = [Held(Due(1, at), own, bound)]
        assert end(own, Due(1, 12.0), held, pace, 0.0, 1.0) == expected
    already_late = [Held(Due(1, 9.0), own, True)]
    assert end(own, Due(0, 12.0), already_late, pace, 0.0, 1.0) == 10.0


@dataclass(eq=False)
class Row:
    """A sample that is in one stage, one row wide."""

    left: int
    rows: int = 1

    @property
    def group(self) -> Group:
        return Group("base", "m", True)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(0, 999),
)
def test_the_bound_holds_where_passes_cost_what_was_measured(
    crowd: list[tuple[int, int]], capacity: int, seed: int
) -> None:
    """Against the schedule itself: all come at once, each with a deadline, one stage."""
    chance = random.Random(seed)
    made = Scheduler[Row](capacity)
    rows = {i: [Row(passes) for _ in range(n)] for i, (n, passes) in enumerate(crowd)}
    dues = {i: Due(1, 1000.0 + chance.random()) for i in rows}
    for i, mine in rows.items():
        made.enter(i, Claim("normal", 0.0, dues[i].at))
        for row in mine:
            made.add(i, row)
    ways = {i: Way(n, ((BASE, float(passes)),)) for i, (n, passes) in enumerate(crowd)}
    pace = Pace(FLAT, capacity, list(ways.values()))
    held = {i: Held(dues[i], ways[i], True) for i in rows}
    now, ends = 0.0, dict.fromkeys(rows, 0.0)
    while not made.empty:
        now += 1.0
        for row in made.pick(now):
            row.left -= 1
            if not row.left:
                owner = next(i for i, mine in rows.items() if row in mine)
                made.discard(owner, row)
                ends[owner] = now
    for i in rows:
        others = [each for j, each in held.items() if j != i]
        assert ends[i] <= end(ways[i], dues[i], others, pace, 0.0, 1.0) + 1e-6


def test_the_margin_goes_up_at_once_and_down_slowly() -> None:
    margin = Margin()
    first = margin.value
    margin.learn(4.0, 10.0, 12.0)
    assert margin.value == 2.5 > first
    for _ in range(200):
        margin.learn(8.0, 9.6, 12.0)
    assert 1.2 + 0.3 * 1.3 < margin.value < 1.2 + 0.4 * 1.3
    for _ in range(2000):
        margin.learn(8.0, 9.6, 12.0)
    assert margin.value == pytest.approx(1.2, abs=1e-3)
    margin.learn(10.0, 12.0, 12.0)
    assert margin.value > 1.3
    margin.learn(10.0, 50.0, 12.0)
    assert margin.value == 3.0


def test_whoever_had_time_to_spare_says_little_of_those_who_have_not() -> None:
    """Three times its bound, which was a tenth of its time: nobody could have been more careful."""
    margin = Margin()
    first = margin.value
    margin.learn(1.0, 3.0, 10.0)
    assert margin.value < first
    margin.learn(0.0, 0.0, 10.0)
    assert margin.value < first
    margin.learn(1.0, 9.0, 10.0)
    assert margin.value == pytest.approx(2.7)
