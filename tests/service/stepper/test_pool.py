from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from unified_latents.service.engine.telemetry import StageName
from unified_latents.service.stepper.pool import Group, Pool


@dataclass(eq=False)
class Thing:
    name: str
    rows: int = 1
    stage: StageName = "base"

    @property
    def group(self) -> Group:
        return Group(self.stage, "m", True)


def names(things: list[Thing]) -> list[str]:
    return [thing.name for thing in things]


def test_an_empty_pool_picks_nothing() -> None:
    assert Pool[Thing]().pick(4) == []


def test_every_owner_gives_its_first_before_any_gives_its_second() -> None:
    pool = Pool[Thing]()
    for name in ("a0", "a1", "a2"):
        pool.add(1, Thing(name))
    pool.add(2, Thing("b0"))
    assert names(pool.pick(3)) == ["a0", "b0", "a1"]


def test_groups_take_turns() -> None:
    pool = Pool[Thing]()
    pool.add(1, Thing("base"))
    pool.add(2, Thing("encode", stage="encode"))
    assert [names(pool.pick(4)) for _ in range(4)] == [["base"], ["encode"]] * 2


def test_a_sample_wider_than_the_capacity_runs_alone() -> None:
    pool = Pool[Thing]()
    pool.add(1, Thing("wide", rows=2))
    pool.add(2, Thing("next"))
    assert names(pool.pick(1)) == ["wide"]


def test_discard_and_drop_leave_nothing_behind() -> None:
    pool = Pool[Thing]()
    one, two = Thing("one"), Thing("two")
    pool.add(1, one)
    pool.add(1, two)
    pool.discard(1, one)
    pool.discard(1, one)
    assert pool.sizes() == {two.group: 1}
    pool.drop(1)
    pool.drop(1)
    assert pool.sizes() == {}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2)), min_size=1), st.integers(1, 9))
def test_nobody_starves_and_no_capacity_is_exceeded(
    wanted: list[tuple[int, int]], capacity: int
) -> None:
    pool = Pool[Thing]()
    for i, (owner, rows) in enumerate(wanted):
        pool.add(owner, Thing(str(i), rows))
    served: list[str] = []
    for _ in wanted:
        batch = pool.pick(capacity)
        assert len(batch) == 1 or sum(thing.rows for thing in batch) <= capacity
        for thing in batch:
            served.append(thing.name)
            for owner in range(1, 6):
                pool.discard(owner, thing)
    assert sorted(served, key=int) == [str(i) for i in range(len(wanted))]
