"""A parent's view of the engine's work: what it has in flight, and how long one more would take.

What was admitted counts from that moment on, whether the engine has heard of it or not, and what
came of earlier promises, delays on the way included, says how far the next one is to be believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from unified_latents.service.engine.deadlines import Due, Held, Margin, Pace, Way, end, rest, way
from unified_latents.service.engine.forecast import DUE, CostTable
from unified_latents.service.engine.messages import Request
from unified_latents.service.engine.telemetry import PRIORITIES, Costs


@dataclass
class _Entry:
    request: Request
    due: Due
    whole: Way
    left: Way
    arrived: float
    bound: float | None
    """Seconds that it takes at most, by what was known when it came."""


class Outlook:
    """Forecasts over what is in flight, for an engine whose passes hold `capacity` rows."""

    def __init__(self, capacity: int) -> None:
        self._table = CostTable()
        self._capacity = capacity
        self._bias = 1.0
        self._entries: dict[int, _Entry] = {}
        self._margin = Margin()

    @property
    def costs(self) -> Costs:
        """What engines have measured."""
        return Costs(self._table.all(), self._bias)

    def learn(self, costs: Costs) -> None:
        """What an engine has measured; what another one had stays where this one has nothing."""
        for cost in costs.costs:
            self._table.put(cost)
        self._bias = costs.bias

    def enter(self, number: int, request: Request, now: float) -> None:
        """A request is in flight."""
        bound = None if request.timeout is None else self._bound(request, now)
        whole = way(request)
        self._entries[number] = _Entry(request, _due(request, now), whole, whole, now, bound)

    def progress(self, number: int, done: float) -> None:
        """The part of a request that is done, 0 … 1."""
        entry = self._entries[number]
        entry.left = rest(entry.whole, done)

    def leave(self, number: int, took_until: float | None = None) -> None:
        """A request is no longer in flight; `took_until`: it has ended, or its time has."""
        entry = self._entries.pop(number, None)
        if entry is None or entry.bound is None or took_until is None:
            return
        allowed = entry.due.at - entry.arrived
        self._margin.learn(entry.bound, took_until - entry.arrived, allowed)

    def eta(self, request: Request, now: float) -> float | None:
        """Seconds after which a request that comes now is done, with the margin of the cautious.

        None where nothing is known of it.
        """
        bound = self._bound(request, now)
        return None if bound is None else self._margin.value * bound

    def _bound(self, request: Request, now: float) -> float | None:
        own = way(request)
        if any(self._table.seconds(part.key, part.rows) is None for part, _ in own.passes):
            return None
        held = [Held(e.due, e.left, e.request.timeout is not None) for e in self._entries.values()]
        pace = Pace(self._table, self._capacity, [own, *(each.way for each in held)])
        return end(own, _due(request, now), held, pace, now, self._margin.value)


def _due(request: Request, now: float) -> Due:
    wait = DUE if request.timeout is None else request.timeout
    return Due(PRIORITIES.index(request.priority), now + wait)
