"""Whether deadlines can be kept: what the door promises, and what the engine must hurry.

A pass is like so many machines side by side: m samples share it. Whoever is due earlier goes first,
so a request waits for the work of those before it, spread over m, and for its own chain of passes,
which nothing shortens (Graham, "Bounds on multiprocessing timing anomalies", 1969):

    end_i ≤ Σ_{j ≤ i} work_j / m + (1 − 1/m) chain_i

For what noise, pauses, messages under way, and passes that those who come later make wider add to
that, a margin stands. It is learned from what requests took, in parts of their bounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unified_latents.service.engine.forecast import CostTable, Key, legs, samples
from unified_latents.service.engine.messages import Request

_FADING = 200
"""Requests after which the part of the margin that none of them needed is down to 37 %."""
_FIRST = 2.0
"""The margin before anything is known."""
_LEAST, _MOST = 0.8, 3.0
_CENSORED = 1.1
"""A request whose time ran out would have taken longer: at least by so much."""


class Part(NamedTuple):
    """What the seconds of a sample's pass depend on."""

    key: Key
    rows: float


class Way(NamedTuple):
    """What is left of a request: for each of its samples, so many passes of each part."""

    samples: int
    passes: tuple[tuple[Part, float], ...]


def way(request: Request) -> Way:
    """All of a request."""
    stages = legs(request)
    keys = (Key(request.model, request.strict, leg.stage) for leg in stages)
    parts = (Part(key, leg.rows) for key, leg in zip(keys, stages, strict=True))
    passes = (float(leg.passes) for leg in stages)
    return Way(samples(request), tuple(zip(parts, passes, strict=True)))


def rest(whole: Way, done: float) -> Way:
    """What is left when `done` (0 … 1) of its passes are; its samples go side by side."""
    gone = done * sum(passes for _, passes in whole.passes)
    left = []
    for part, passes in whole.passes:
        here = min(gone, passes)
        gone -= here
        left.append((part, passes - here))
    return Way(whole.samples, tuple(left))


class Pace:
    """Seconds of passes as a crowd will share them; what was never measured costs nothing.

    Samples are spread over the stages in proportion to the time that these take.
    """

    def __init__(self, table: CostTable, capacity: int, crowd: Sequence[Way]) -> None:
        self._seconds: dict[Part, float] = {}
        self._shared: dict[Part, int] = {}
        counts: dict[Part, float] = defaultdict(float)
        for each in crowd:
            for part, passes in each.passes:
                counts[part] += passes * each.samples
        full = {part: max(1, int(capacity // part.rows)) for part in counts}
        spent: dict[Key, float] = defaultdict(float)
        for part, m in full.items():
            seconds = table.seconds(part.key, part.rows * m) or 0.0
            spent[part.key] += counts[part] * seconds / m
        whole, many = sum(spent.values()), sum(each.samples for each in crowd)
        for part, m in full.items():
            here = many * (spent[part.key] / whole if whole else 1.0)
            together = self._shared[part] = min(m, max(1, round(here)))
            self._seconds[part] = table.seconds(part.key, part.rows * together) or 0.0

    def work(self, each: Way) -> float:
        """Seconds of the engine that a request takes."""
        one = sum(n * self._seconds[part] / self._shared[part] for part, n in each.passes)
        return each.samples * one

    def chain(self, each: Way) -> float:
        """Seconds of its passes one after the other, each shared with others."""
        return sum(n * self._seconds[part] for part, n in each.passes)

    def alone(self, each: Way) -> float:
        """The part of the chain that others' work does not cover."""
        return sum(
            n * self._seconds[part] * (1 - 1 / self._shared[part]) for part, n in each.passes
        )


class Due(NamedTuple):
    """A request's place: classes of priority, then deadlines."""

    level: int
    at: float


class Held(NamedTuple):
    """A request in flight; `bound` where it has a deadline of its own."""

    due: Due
    way: Way
    bound: bool


def end(own: Way, due: Due, held: Iterable[Held], pace: Pace, now: float, margin: float) -> float:
    """Seconds until a request that comes now is done, by the bound, those held keeping their word.

    Whoever would be late because of it goes first, if it would not be late anyway.
    """
    work, mine = pace.work(own), pace.work(own)
    before = passed = 0.0
    for each in sorted(held, key=lambda each: each.due):
        passed += pace.work(each.way)
        finish = passed + pace.alone(each.way)
        slack = each.due.at - now - margin * finish
        hurt = each.bound and 0 <= slack < margin * mine
        if each.due <= due or hurt:
            before = passed
    return before + work + pace.alone(own)


class Margin:
    """How many times the bound the cautious expect: up at once, and down slowly.

    Requests in flight together share their passes, and so their luck: what a hundred of them took
    is hardly more than one observation, and is heard of only when a hundred more were let in.
    """

    def __init__(self) -> None:
        self._level = _FIRST

    @property
    def value(self) -> float:
        return min(max(self._level, _LEAST), _MOST)

    def learn(self, bound: float, took: float, allowed: float) -> None:
        """A request took so many of the seconds allowed; `bound` was computed at its arrival.

        One whose bound is so small a part of what was allowed that any margin would have let it in
        tells only how close it came to being late.
        """
        needed = took / max(bound, allowed / _MOST) * (_CENSORED if took >= allowed else 1.0)
        self._level = max(needed, self._level + (needed - self._level) / _FADING)
