from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_latents.service.http.access.budgets import Budgets
from unified_latents.service.keys import Caller

ALICE = Caller("alice", frozenset({"generate"}), 600)
BOB = Caller("bob", frozenset({"generate"}), 600)


def test_a_minutes_worth_at_once_and_then_what_has_filled() -> None:
    now = [100.0]
    budgets = Budgets(lambda: now[0])
    assert budgets.take(ALICE, 600) == 0
    assert budgets.take(ALICE, 10) == pytest.approx(1.0)
    assert budgets.take(BOB, 600) == 0
    now[0] += 1.0
    assert budgets.take(ALICE, 10) == 0
    assert budgets.take(ALICE, 10) == pytest.approx(1.0)
    now[0] += 3600
    assert budgets.take(ALICE, 601) == math.inf
    assert budgets.take(ALICE, 600) == 0
    assert budgets.take(ALICE, 1) > 0


def test_no_budget_is_no_limit() -> None:
    assert Budgets().take(Caller("free", frozenset()), 10**9) == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 700)), max_size=40))
def test_never_more_than_a_minutes_worth_and_the_time(asks: list[tuple[float, int]]) -> None:
    now = [0.0]
    budgets, taken = Budgets(lambda: now[0]), 0
    for wait, cost in asks:
        now[0] += wait
        taken += cost if budgets.take(ALICE, cost) == 0 else 0
        assert taken <= 600 + now[0] * 10 + 1e-6
