"""The policy by itself: a clock that the test moves, samples that are only names."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unified_latents.service.engine.forecast import DUE
from unified_latents.service.engine.telemetry import PRIORITIES, Priority, StageName
from unified_latents.service.stepper.scheduler import (
    AGEING,
    RECOVERY,
    Claim,
    Group,
    Scheduler,
)


@dataclass(eq=False)
class Thing:
    name: str
    rows: int = 1
    stage: StageName = "base"

    @property
    def group(self) -> Group:
        return Group(self.stage, "m", True)


BASE, DECODE = Thing("", stage="base").group, Thing("", stage="decode").group


@dataclass
class Waiting:
    """One request of a drawn crowd."""

    priority: Priority = "normal"
    arrived: float = 0.0
    deadline: float | None = None
    rows: list[int] = field(default_factory=lambda: [1])
    stage: StageName = "base"

    @property
    def claim(self) -> Claim:
        return Claim(self.priority, self.arrived, self.deadline)


requests = st.builds(
    Waiting,
    priority=st.sampled_from(PRIORITIES),
    arrived=st.floats(0, 50),
    deadline=st.none() | st.floats(50, 200),
    rows=st.lists(st.integers(1, 2), min_size=1, max_size=4),
    stage=st.sampled_from(["base", "decode", "encode"]),
)
crowds = st.lists(requests, min_size=1, max_size=12)
NOW = 50.0


def scheduler(crowd: list[Waiting], capacity: int) -> Scheduler[Thing]:
    made = Scheduler[Thing](capacity)
    for owner, each in enumerate(crowd):
        made.enter(owner, each.claim)
        for i, rows in enumerate(each.rows):
            made.add(owner, Thing(f"{owner}.{i}", rows, each.stage))
    return made


def owner(thing: Thing) -> int:
    return int(thing.name.split(".")[0])


def names(things: list[Thing]) -> list[str]:
    return [thing.name for thing in things]


def test_an_empty_schedule_picks_nothing() -> None:
    empty = Scheduler[Thing](4)
    assert empty.pick(0.0) == []
    assert empty.empty


def test_every_owner_gives_its_first_before_any_gives_its_second() -> None:
    crowd = [Waiting(rows=[1, 1, 1]), Waiting()]
    assert names(scheduler(crowd, 3).pick(0.0)) == ["0.0", "1.0", "0.1"]


def test_samples_with_a_deadline_of_their_own_do_not_queue_behind_each_other() -> None:
    crowd = [Waiting(), Waiting(deadline=DUE / 2, rows=[1, 1]), Waiting(deadline=DUE * 2)]
    assert names(scheduler(crowd, 3).pick(0.0)) == ["1.0", "1.1", "0.0"]


def test_classes_go_in_order() -> None:
    crowd = [Waiting("low"), Waiting("normal"), Waiting("high")]
    assert names(scheduler(crowd, 2).pick(0.0)) == ["2.0", "1.0"]


def test_worse_classes_fill_a_pass_only_while_that_is_cheap() -> None:
    crowd = [Waiting("low", rows=[1] * 20), Waiting("high", rows=[1, 1])]
    dear = Scheduler[Thing](16, lambda group, rows: 0.2 + 0.1 * rows)
    flat = Scheduler[Thing](16, lambda group, rows: 1.0)
    for made in (dear, flat):
        for number, each in enumerate(crowd):
            made.enter(number, each.claim)
            for i, rows in enumerate(each.rows):
                made.add(number, Thing(f"{number}.{i}", rows))
    assert names(dear.pick(0.0)) == ["1.0", "1.1", "0.0", "0.1"]
    assert len(flat.pick(0.0)) == 16
    dear.drop(1)
    assert len(dear.pick(0.0)) == 16


def test_waiting_raises_a_request_and_being_served_does_not() -> None:
    waiting, served = Claim("low", 0.0), Claim("low", 0.0, served=AGEING)
    assert [waiting.level(AGEING * k) for k in (0, 1, 2, 9)] == [2, 1, 0, 0]
    assert served.level(AGEING * 1.5) == 2


def test_hurry_raises_a_request_by_a_class_and_takes_its_group() -> None:
    crowd = [Waiting() for _ in range(8)]
    crowd += [Waiting(deadline=9.0, stage="decode"), Waiting(deadline=8.0, stage="encode")]
    made = scheduler(crowd, 4)
    assert [made.pick(0.0)[0].stage for _ in range(3)] == ["base", "decode", "encode"]
    for number, each in ((8, 9.0), (9, 8.0)):
        hurried = Claim("normal", 0.0, each, hurry=5.0)
        assert [hurried.level(now) for now in (4.9, 5.0)] == [1, 0]
        made.enter(number, hurried)
    for _ in range(2):
        batch = made.pick(5.0)
        assert names(batch) == ["9.0"]
        made.ran(batch[0].group, {9}, 1.0, 5.0)
    made.drop(9)
    assert names(made.pick(5.0)) == ["8.0"]


def test_who_is_due_earlier_without_a_deadline_is_not_held_up_by_hurry() -> None:
    made = scheduler([Waiting("high"), Waiting(stage="decode")], 4)
    made.enter(1, Claim("normal", DUE, 2 * DUE, hurry=0.0))
    assert [made.pick(DUE)[0].stage for _ in range(2)] == ["base", "decode"]


def test_equal_groups_take_turns_and_a_dear_one_pays_for_it() -> None:
    made = scheduler([Waiting(), Waiting(stage="decode")], 4)
    assert [made.pick(0.0)[0].stage for _ in range(4)] == ["base", "decode"] * 2
    stages = []
    for _ in range(8):
        (thing,) = made.pick(0.0)
        stages.append(thing.stage)
        made.ran(thing.group, {owner(thing)}, 3.0 if thing.stage == "decode" else 1.0, 0.0)
    assert stages.count("base") == 6


def test_where_a_large_batch_costs_no_more_it_gets_more_passes() -> None:
    """Seven requests against one, every pass one second: seven passes against one."""
    made = scheduler([Waiting() for _ in range(7)] + [Waiting(stage="decode")], 8)
    stages = []
    for _ in range(16):
        batch = made.pick(0.0)
        stages.append(batch[0].stage)
        made.ran(batch[0].group, {owner(thing) for thing in batch}, 1.0, 0.0)
    assert stages.count("decode") == 2


def test_a_sample_wider_than_the_budget_runs_alone() -> None:
    assert names(scheduler([Waiting(rows=[2]), Waiting()], 1).pick(0.0)) == ["0.0"]


def test_a_budget_that_memory_cut_recovers() -> None:
    made = scheduler([Waiting() for _ in range(8)], 8)
    made.cut(BASE, 0, 0.0)
    assert len(made.pick(0.0)) == 1
    assert len(made.pick(RECOVERY)) == 8


def test_leaving_leaves_nothing_behind() -> None:
    made = Scheduler[Thing](4)
    made.enter(1, Claim("normal", 0.0))
    one, two = Thing("1.0"), Thing("1.1", stage="decode")
    made.add(1, one)
    made.add(1, two)
    made.discard(1, one)
    made.discard(1, one)
    assert made.sizes() == {DECODE: 1}
    made.drop(1)
    made.drop(1)
    made.ran(DECODE, {1}, 1.0, 0.0)
    assert made.empty
    assert made.sizes() == {}


@given(crowds, st.integers(2, 9))
def test_the_row_budget_holds_and_is_used_up(crowd: list[Waiting], capacity: int) -> None:
    """Work-conserving: never idle, and nothing of the group that would fit is left out."""
    made = scheduler(crowd, capacity)
    batch = made.pick(NOW)
    used = sum(thing.rows for thing in batch)
    assert 0 < used <= capacity
    stage = batch[0].stage
    waiting = [rows for each in crowd if each.stage == stage for rows in each.rows]
    taken = [thing.rows for thing in batch]
    for rows in set(waiting):
        assert waiting.count(rows) == taken.count(rows) or used + rows > capacity


@given(crowds, st.integers(2, 9), st.integers(0, 11))
def test_a_better_class_never_loses_a_place(
    crowd: list[Waiting], capacity: int, chosen: int
) -> None:
    """Monotone in priority."""
    crowd = [Waiting(e.priority, e.arrived, e.deadline, e.rows) for e in crowd]
    who = chosen % len(crowd)

    def taken(priority: Priority) -> int:
        crowd[who].priority = priority
        picked = scheduler(crowd, capacity).pick(NOW)
        return sum(thing.rows for thing in picked if owner(thing) == who)

    assert taken("low") <= taken("normal") <= taken("high")


@given(crowds, st.integers(2, 9), st.integers(0, 11), st.floats(50, 200), st.floats(50, 200))
def test_an_earlier_deadline_never_loses_a_place(
    crowd: list[Waiting], capacity: int, chosen: int, one: float, other: float
) -> None:
    crowd = [Waiting(e.priority, e.arrived, e.deadline, e.rows) for e in crowd]
    who = chosen % len(crowd)

    def taken(deadline: float) -> int:
        crowd[who].deadline = deadline
        picked = scheduler(crowd, capacity).pick(NOW)
        return sum(thing.rows for thing in picked if owner(thing) == who)

    assert taken(max(one, other)) <= taken(min(one, other))


@given(crowds, st.integers(2, 9))
def test_within_a_class_the_earliest_deadline_is_served(
    crowd: list[Waiting], capacity: int
) -> None:
    crowd = [Waiting("high", 0.0, each.deadline or DUE, [1]) for each in crowd]
    assume(len(crowd) > capacity)
    picked = {owner(thing) for thing in scheduler(crowd, capacity).pick(0.0)}
    latest = max(crowd[i].claim.due for i in picked)
    assert all(each.claim.due >= latest for i, each in enumerate(crowd) if i not in picked)


@settings(max_examples=40, deadline=None)
@given(crowds, st.integers(2, 6), st.floats(0.5, 2))
def test_nobody_starves_behind_a_better_class(
    crowd: list[Waiting], capacity: int, seconds: float
) -> None:
    """Beside endless requests of the first class that fill every pass of every stage."""
    stages: tuple[StageName, ...] = ("base", "decode", "encode")
    full = [1] * capacity
    endless = [Waiting("high", 0.0, None, full, stage) for stage in stages for _ in range(3)]
    made = scheduler([*crowd, *endless], capacity)
    now, left = NOW, {f"{i}.{k}" for i, each in enumerate(crowd) for k in range(len(each.rows))}
    bound = 1000 / seconds
    passes = 0
    while left:
        batch = made.pick(now)
        now += seconds
        made.ran(batch[0].group, {owner(thing) for thing in batch}, seconds, now)
        for thing in batch:
            if owner(thing) < len(crowd):
                left.discard(thing.name)
                made.discard(owner(thing), thing)
        passes += 1
        assert passes < bound
