"""Row-steps a minute, by key: a bucket that holds one minute's worth and fills evenly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from unified_latents.service.keys import Caller

_MINUTE = 60.0


@dataclass
class _Bucket:
    level: float
    filled: float
    """When the level was true."""


class Budgets:
    """What each key has left. There are as many buckets as keys with a budget."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: Caller, row_steps: int) -> float:
        """Take them and give 0, or leave them: the seconds after which they will be there.

        More than a whole minute's budget will never be there: infinity.
        """
        if caller.budget is None:
            return 0.0
        if row_steps > caller.budget:
            return float("inf")
        bucket = self._filled(caller.name, caller.budget)
        missing = row_steps - bucket.level
        if missing > 0:
            return missing * _MINUTE / caller.budget
        bucket.level -= row_steps
        return 0.0

    def give_back(self, caller: Caller, row_steps: int) -> None:
        """What was taken for work that was then not begun."""
        if caller.budget is not None:
            bucket = self._filled(caller.name, caller.budget)
            bucket.level = min(float(caller.budget), bucket.level + row_steps)

    def _filled(self, name: str, budget: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(name, _Bucket(budget, now))
        grown = bucket.level + (now - bucket.filled) * budget / _MINUTE
        bucket.level, bucket.filled = min(float(budget), grown), now
        return bucket
