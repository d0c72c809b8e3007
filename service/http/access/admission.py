"""Admission: what cannot be done is refused before it is queued, with the time to come back.

The queue is bounded in row-steps. A request leaves it step by step, as the engine reports its
progress. Forecasts are the engine's: the time until it has drained, and what its passes cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from unified_latents.service.engine.forecast import row_steps
from unified_latents.service.engine.messages import Request
from unified_latents.service.engine.seam import Engine, NotReadyError
from unified_latents.service.http.access.budgets import Budgets
from unified_latents.service.http.access.guard import forbidden
from unified_latents.service.http.problems import (
    FieldError,
    Problem,
    patience,
    retry_headers,
    unavailable,
)
from unified_latents.service.keys import Caller

Reason = Literal["budget", "queue", "deadline", "busy", "not_ready", "draining"]
SHORTEST = 0.05
"""Seconds: nobody is asked to come back sooner."""
_UNKNOWN = 1.0


class Entry:
    """The part of the queue that one request still fills."""

    def __init__(self, row_steps: int) -> None:
        self._whole = row_steps
        self.left = row_steps

    def progress(self, done: int, steps: int) -> None:
        """So many of its steps are done."""
        self.left = self._whole - self._whole * done // max(1, steps)


class Admission:
    """The door of one engine."""

    def __init__(
        self, engine: Engine, limit: int, refused: Callable[[Reason], None], budgets: Budgets
    ) -> None:
        self._engine = engine
        self._limit = limit
        self._refused = refused
        self._budgets = budgets
        self._entries: set[Entry] = set()

    @property
    def queued(self) -> int:
        """Row-steps that were admitted and are not done."""
        return sum(entry.left for entry in self._entries)

    @contextmanager
    def enter(self, caller: Caller, request: Request) -> Iterator[Entry]:
        """The request's place while it is worked on; a Problem where there is none.

        A request that the engine does not take costs its key nothing.
        """
        cost = row_steps(request)
        self._check_priority(caller, request)
        self._check_deadline(request)
        self._check_queue(cost)
        self.charge(caller, cost)
        entry = Entry(cost)
        self._entries.add(entry)
        try:
            yield entry
        except NotReadyError as error:
            self.give_back(caller, cost)
            raise self._turned_away(error) from error
        finally:
            self._entries.discard(entry)

    def charge(self, caller: Caller, cost: int) -> None:
        """Take row-steps from a key's budget, or refuse with a 429."""
        wait = self._budgets.take(caller, cost)
        if wait:
            self._refused("budget")
            message = f"{cost} row-steps are more than this key has left"
            fault = FieldError(field="Authorization", message=message, limit=caller.budget)
            raise Problem(429, "budget_exceeded", message, [fault], retry_headers(wait))

    def give_back(self, caller: Caller, cost: int) -> None:
        """Row-steps that were charged for work that was then not taken."""
        self._budgets.give_back(caller, cost)

    def _turned_away(self, error: NotReadyError) -> Problem:
        """The engine is full, and has room when its first request ends; or there is none."""
        status = self._engine.status
        if error.code == "busy":
            self._refused("busy")
            return unavailable("busy", error.detail, self._until(1, max(1, status.in_flight)))
        self._refused("not_ready")
        return unavailable(error.code, _reason(error.detail, status.detail), patience(status))

    def _check_priority(self, caller: Caller, request: Request) -> None:
        if request.priority == "high" and not caller.may("high"):
            raise forbidden("high")

    def _check_deadline(self, request: Request) -> None:
        eta = self._engine.eta(request) if request.timeout is not None else None
        if eta is None or request.timeout is None or eta <= request.timeout:
            return
        self._refused("deadline")
        message = f"would end after {eta:.2f} s by forecast"
        fault = FieldError(field="timeout", message=message, limit=request.timeout)
        headers = retry_headers(self._until_less(eta - request.timeout))
        raise Problem(503, "deadline_unmet", f"timeout: {message}", [fault], headers)

    def _until_less(self, excess: float) -> float:
        """Seconds until the engine has less to do by `excess` seconds; infinity: it has nothing.

        Until the first pass over what has just come, its forecast knows of no work.
        """
        status = self._engine.status
        if not status.in_flight:
            return float("inf")
        return max(SHORTEST, min(excess, status.drain) if status.drain > 0 else excess)

    def _check_queue(self, cost: int) -> None:
        queued = self.queued
        excess = queued + cost - self._limit
        if excess <= 0:
            return
        self._refused("queue")
        message = f"{queued} row-steps wait already and {cost} would come to them"
        fault = FieldError(field="queue", message=message, limit=self._limit)
        wait = float("inf") if cost > self._limit else self._until(excess, queued)
        raise Problem(503, "overloaded", message, [fault], retry_headers(wait))

    def _until(self, row_steps: int, queued: int) -> float:
        """Seconds until so many of the queued are done, at the rate of the forecast."""
        drain = self._engine.status.drain
        return max(SHORTEST, drain * row_steps / queued) if drain > 0 else _UNKNOWN


def _reason(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what
