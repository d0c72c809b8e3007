"""When to ask again: what the service's headers say, else exponential backoff with jitter.

`retry-after-ms`, then `Retry-After` in seconds; `x-should-retry` overrules the status.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

AGAIN = frozenset({429, 502, 503, 504})
"""Statuses that pass; every call is safe to repeat, because its result depends on it alone."""


@dataclass(frozen=True)
class Retries:
    """At most `attempts` askings; no wait is longer than `longest` seconds."""

    attempts: int = 6
    first: float = 0.25
    longest: float = 60.0

    def wait(self, attempt: int, status: int | None, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait after asking number `attempt` (from 1); None: that was the answer.

        `status` is None where no answer came. A wait that the service asks for and that is longer
        than `longest` is not begun.
        """
        if attempt >= self.attempts or not _passes(status, headers):
            return None
        asked = _asked(headers)
        if asked is None:
            backoff = min(self.longest, self.first * 2.0 ** (attempt - 1))
            return backoff * random.uniform(0.5, 1.0)
        return asked if asked <= self.longest else None


def _passes(status: int | None, headers: Mapping[str, str]) -> bool:
    said = headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return status is None or status in AGAIN


def _asked(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return None
