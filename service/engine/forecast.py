"""How long requests will take: from measured passes and from what shares them.

A request alone takes its steps times the cost of a pass. Beside others it is slowed down: k samples
share a pass of k rows, which costs `slowdown(k)` times a pass of one. Passes are shared until the
shorter request ends; so a request waits for the whole of what outranks it, and for the part of its
equals that is not longer than itself (processor sharing). What will still arrive is not known; how
far forecasts were off lately (`Costs.bias`) stands for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from unified_latents.service.engine.messages import Decode, Encode, Generate, Request
from unified_latents.service.engine.telemetry import PRIORITIES, Cost, StageName

RATE_ROWS = 64
"""Strata of a bitrate in one pass: a pass must stay short, whatever a request asks for."""
DUE = 60.0
"""Seconds after its arrival at which a request without a deadline counts as due."""


class Leg(NamedTuple):
    """One sample's way through one stage."""

    stage: StageName
    passes: int
    rows: float
    """In a pass, on average: two while guided, one outside of the guidance interval."""


class Key(NamedTuple):
    """What the cost of a pass depends on, besides its rows."""

    model: str
    strict: bool
    stage: StageName


def legs(request: Request) -> list[Leg]:
    """A sample's way through the engine."""
    match request:
        case Generate():
            steps, guided = request.base.steps, guided_steps(request)
            base = Leg("base", steps, (steps + guided) / steps)
            decode = [Leg("decode", request.decode.steps, 1)] if request.decode else []
            return [base, *decode]
        case Decode():
            return [Leg("decode", request.decode.steps * request.windows, 1)]
        case Encode():
            rate = [Leg("rate", -(-request.levels // RATE_ROWS), 1)] if request.levels else []
            return [Leg("encode", request.windows, 1), *rate]


def guided_steps(request: Generate) -> int:
    """Base steps that evaluate both rows; one at the very end of the interval may count or not."""
    if request.guidance == 1:
        return 0
    if request.interval is None or request.levels is None:
        return request.base.steps
    (low, high), (noisiest, finest) = request.interval, request.levels
    steps = request.base.steps
    return sum(low <= noisiest + k * (finest - noisiest) / steps <= high for k in range(steps))


def samples(request: Request) -> int:
    """How many samples a request has."""
    match request:
        case Generate():
            return request.n
        case Decode():
            return request.z.shape[0]
        case Encode():
            return 1


def row_steps(request: Request) -> int:
    """Network evaluations of one row that a request asks for."""
    each = sum(round(leg.passes * leg.rows) for leg in legs(request))
    return samples(request) * each


class CostTable:
    """Seconds of a pass by its rows: straight lines between what was measured."""

    def __init__(self, costs: Iterable[Cost] = ()) -> None:
        self.points: dict[Key, dict[int, Cost]] = {}
        for cost in costs:
            self.put(cost)

    def put(self, cost: Cost) -> None:
        """A measured bucket, in the place of what was known of it."""
        self.points.setdefault(Key(cost.model, cost.strict, cost.stage), {})[cost.bucket] = cost

    def all(self) -> tuple[Cost, ...]:
        """Everything measured."""
        return tuple(cost for buckets in self.points.values() for cost in buckets.values())

    def seconds(self, key: Key, rows: float) -> float | None:
        """Of a pass of `rows`; from the other mode where this one has no measurement, else None.

        Outside of what was measured a pass costs in proportion to its rows.
        """
        buckets = self.points.get(key) or self.points.get(key._replace(strict=not key.strict))
        if not buckets:
            return None
        curve = sorted(buckets.values(), key=lambda cost: cost.rows)
        i = bisect_left(curve, rows, key=lambda cost: cost.rows)
        if i in (0, len(curve)):
            nearest = curve[min(i, len(curve) - 1)]
            return nearest.seconds * rows / nearest.rows
        below, above = curve[i - 1], curve[i]
        share = (rows - below.rows) / (above.rows - below.rows)
        return below.seconds + share * (above.seconds - below.seconds)


class Load(NamedTuple):
    """What is left of one request."""

    level: int
    """0 outranks 1."""
    samples: int
    seconds: float
    """Of one sample with the engine to itself."""


Slowdown = Callable[[int], float]
"""Samples in a pass → how many times as long it takes as a pass of one."""


def finishes(loads: Sequence[Load], slowdown: Slowdown) -> list[float]:
    """Seconds until each load is done, all of them sharing every pass as `slowdown` says."""
    done = [0.0] * len(loads)
    start = 0.0
    for level in sorted({load.level for load in loads}):
        peers = [i for i, load in enumerate(loads) if load.level == level]
        active = sum(loads[i].samples for i in peers)
        time, reached = start, 0.0
        for i in sorted(peers, key=lambda i: loads[i].seconds):
            time += (loads[i].seconds - reached) * slowdown(active)
            reached = loads[i].seconds
            active -= loads[i].samples
            done[i] = time
        start = time
    return done


class Forecast:
    """Forecasts from a table of costs, for an engine whose passes hold `capacity` rows."""

    def __init__(self, table: CostTable, capacity: int) -> None:
        self.table = table
        self._capacity = capacity

    def load(self, request: Request) -> Load | None:
        """All of a request; None where nothing is known of its passes."""
        seconds = 0.0
        for leg in legs(request):
            cost = self._pass(request, leg, 1)
            if cost is None:
                return None
            seconds += leg.passes * cost
        return Load(PRIORITIES.index(request.priority), samples(request), seconds)

    def etas(self, work: Sequence[tuple[Request, Load]], bias: float = 1.0) -> list[float]:
        """Seconds until each of the requests is done, given what is left of every one."""
        if not work:
            return []
        longest, _ = max(work, key=lambda entry: entry[1].samples * entry[1].seconds)
        ends = finishes([load for _, load in work], self._slowdown(longest))
        return [bias * end for end in ends]

    def _slowdown(self, request: Request) -> Slowdown:
        """Of the stage in which the request spends the most time."""

        def alone(leg: Leg) -> float:
            return self._pass(request, leg, 1) or 0.0

        heaviest = max(legs(request), key=lambda leg: leg.passes * alone(leg))
        one, most = alone(heaviest), max(1, int(self._capacity // heaviest.rows))

        @cache
        def shared(count: int) -> float:
            return (self._pass(request, heaviest, count) or 0.0) / one if one else 0.0

        def slowdown(count: int) -> float:
            """Beyond the capacity samples wait for each other."""
            together = min(count, most)
            return shared(together) * count / together if count else 0.0

        return slowdown

    def _pass(self, request: Request, leg: Leg, count: int) -> float | None:
        """Seconds of a pass of `count` samples like this request's."""
        key = Key(request.model, request.strict, leg.stage)
        return self.table.seconds(key, leg.rows * count)
