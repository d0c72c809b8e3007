"""Which rows share the next pass: policy, without torch, and with the clock passed in.

A request waits in groups: samples of one group could share a pass. Two choices make a pass.

*Which group.* Who must be served from now on to keep a deadline goes up a class, and in the best
class its group is next, the earliest deadline first. Otherwise groups share the engine's time by
weighted fair queueing: a pass is charged to its group in seconds, divided by the weights of the
requests waiting there, and the group charged least goes next. Where a batch costs as much as its
rows one by one, every request gets the same time; where a large batch costs little more than a
small one, the large one gets more passes. A pass is never held back to wait for company.

*Which samples.* By class of priority, then everybody's first sample before anybody's second, then
by earliest deadline, then by arrival. Samples of a request with a deadline of its own do not queue
behind each other; one without is due a minute after it came, and later by ten seconds for every ten
that it was served: long requests share, short ones finish in order. What does not fit into the row
budget is passed over for what does. Worse classes fill a pass only while it costs little more than
the best one's samples alone would.

Waiting raises a request's class, one for every `AGEING` seconds in which no pass served it, so that
nobody starves behind a better class.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from unified_latents.service.engine.forecast import DUE
from unified_latents.service.engine.telemetry import PRIORITIES, Priority, StageName

AGEING = 10.0
"""Seconds unserved that raise a request by one class."""
RECOVERY = 60.0
"""Seconds after which a budget that memory has cut is whole again."""
_LOOK = 8
"""A pass is filled from so many times its rows of the samples in order, not from all that wait."""
SLACK = 1.5
"""How many times what it would cost alone a pass of the best class may cost with others in it."""
_WEIGHT = 4.0
"""How many times the share of one class is the next one's."""


class Group(NamedTuple):
    """What samples must share to share a pass."""

    stage: StageName
    model: str
    strict: bool
    alone: int = 0
    """The request's id where its samples share with nobody else's; otherwise 0."""


class Item(Protocol):
    """What the policy needs to know of a sample."""

    @property
    def group(self) -> Group: ...

    @property
    def rows(self) -> int: ...


T = TypeVar("T", bound=Item)


@dataclass(eq=False)
class Claim:
    """What a request asks of the schedule. Times are of the caller's clock, in seconds."""

    priority: Priority
    arrived: float
    deadline: float | None = None
    served: float = 0.0
    """Seconds of passes that it took part in."""
    hurry: float = math.inf
    """When it must begin to be in every pass, to keep its deadline."""

    def level(self, now: float) -> int:
        """0 is served first; waiting lowers it, and so does hurry."""
        unserved = max(0.0, now - self.arrived - self.served)
        raised = int(unserved / AGEING) + (now >= self.hurry)
        return max(0, PRIORITIES.index(self.priority) - raised)

    def weight(self, now: float) -> float:
        """Its share of the engine's time, relative to others."""
        return _WEIGHT ** (len(PRIORITIES) - 1 - self.level(now))

    @property
    def due(self) -> float:
        """The deadline; without one, later by each quantum of service that it has had."""
        if self.deadline is not None:
            return self.deadline
        return self.arrived + DUE + AGEING * int(self.served / AGEING)


class Scheduler(Generic[T]):
    """Samples waiting for their next pass, by group and owner, in order of arrival."""

    def __init__(
        self, capacity: int, cost: Callable[[Group, int], float | None] = lambda group, rows: None
    ) -> None:
        """`cost`: seconds of a pass of so many rows; None where nothing is known."""
        self._capacity = capacity
        self._cost = cost
        self._claims: dict[int, Claim] = {}
        self._groups: dict[Group, dict[int, list[T]]] = {}
        self._charged: dict[Group, float] = {}
        self._cut: dict[Group, tuple[int, float]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._groups

    def sizes(self) -> dict[Group, int]:
        """Samples waiting in each group; groups without any are absent."""
        return {
            group: sum(len(items) for items in owners.values())
            for group, owners in self._groups.items()
        }

    def enter(self, owner: int, claim: Claim) -> None:
        """A request that may `add` samples from now on, until it is dropped."""
        self._claims[owner] = claim

    def add(self, owner: int, item: T) -> None:
        """A sample of a request that has entered joins at the next pass."""
        if item.group not in self._groups:
            self._groups[item.group] = {}
            others = [self._charged[group] for group in self._groups if group != item.group]
            self._charged[item.group] = min(others, default=0.0)
        self._groups[item.group].setdefault(owner, []).append(item)

    def discard(self, owner: int, item: T) -> None:
        """A sample has left its stage; nothing happens if it already had."""
        group, items = item.group, self._groups.get(item.group, {}).get(owner, [])
        if item in items:
            items.remove(item)
            self._prune(group, owner)

    def drop(self, owner: int) -> None:
        """A request leaves with every sample."""
        self._claims.pop(owner, None)
        for group in [group for group, owners in self._groups.items() if owner in owners]:
            self._groups[group][owner].clear()
            self._prune(group, owner)

    def pick(self, now: float) -> list[T]:
        """The next pass: one group's samples within the row budget, at least one sample.

        Only a single sample may be wider than the whole budget.
        """
        if not self._groups:
            return []
        group = self._hurried(now) or min(self._groups, key=self._charged.__getitem__)
        owners = self._groups[group] = self._groups.pop(group)  # equals take turns
        budget = free = self._budget(group, now)
        picked: list[T] = []
        best: float | None = None
        for seen, (level, item) in enumerate(self._order(owners, now)):
            rows = item.rows
            if best is None:
                best = level
            elif level > best:
                free -= budget - self._filled(group, budget - free, budget)
                best = len(PRIORITIES)
                if free <= 0:
                    break
            if rows <= free or not picked:
                picked.append(item)
                free -= rows
            if free <= 0 or seen >= _LOOK * budget:
                break
        return picked

    def ran(self, group: Group, owners: set[int], seconds: float, now: float) -> None:
        """A pass of `group` took `seconds` and served `owners`."""
        for owner in owners & self._claims.keys():
            self._claims[owner].served += seconds
        waiting = self._groups.get(group)
        if waiting is not None:
            weight = sum(self._claims[owner].weight(now) for owner in waiting)
            self._charged[group] += seconds / weight

    def cut(self, group: Group, rows: int, now: float) -> None:
        """Memory did not hold a pass: at most `rows` (≥ 1) rows of this group for a while."""
        self._cut[group] = max(1, rows), now + RECOVERY

    def _hurried(self, now: float) -> Group | None:
        """The group that a deadline calls for, if one of the best class does.

        Whoever has no deadline and is due earlier still has the groups share their time.
        """
        first = min(
            (
                (claim.level(now), claim.due, now < claim.hurry, group)
                for group, owners in self._groups.items()
                for claim in map(self._claims.__getitem__, owners)
                if claim.deadline is None or now >= claim.hurry
            ),
            default=None,
        )
        return first[3] if first is not None and not first[2] else None

    def _filled(self, group: Group, rows: int, budget: int) -> int:
        """How wide a pass may be whose best class fills `rows` of it."""
        alone = self._cost(group, rows)
        if alone is None:
            return budget
        widths = range(budget, rows, -1)
        costs = ((width, self._cost(group, width)) for width in widths)
        return next((w for w, cost in costs if cost is None or cost <= SLACK * alone), rows)

    def _budget(self, group: Group, now: float) -> int:
        rows, until = self._cut.get(group, (self._capacity, now))
        if group in self._cut and now >= until:
            del self._cut[group]
            return self._capacity
        return min(rows, self._capacity)

    def _order(self, owners: dict[int, list[T]], now: float) -> Iterator[tuple[float, T]]:
        """Each sample and its class."""
        queues = [self._queue(owner, items, now) for owner, items in owners.items()]
        for place, item in heapq.merge(*queues, key=lambda entry: entry[0]):
            yield place[0], item

    def _queue(
        self, owner: int, items: list[T], now: float
    ) -> Iterator[tuple[tuple[float, ...], T]]:
        """One request's samples, each with its place among all."""
        claim = self._claims[owner]
        level, due = claim.level(now), claim.due
        for i, item in enumerate(items):
            turn = i if claim.deadline is None else 0
            yield (level, turn, due, claim.arrived, owner, i), item

    def _prune(self, group: Group, owner: int) -> None:
        owners = self._groups[group]
        if not owners[owner]:
            del owners[owner]
        if not owners:
            del self._groups[group], self._charged[group]
