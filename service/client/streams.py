"""Following a job's events over connections that break."""

from __future__ import annotations

import json
from collections.abc import Mapping

from httpx_sse import ServerSentEvent

from unified_latents.service.client.errors import UnreachableError
from unified_latents.service.client.results import Event
from unified_latents.service.client.retry import Retries

_LAST = ("succeeded", "failed", "cancelled")


def told(event: ServerSentEvent) -> bool:
    """Whether it is one: after a first id, httpx-sse makes one of a heartbeat's blank line too."""
    return bool(event.data)


def lasting(event: ServerSentEvent) -> Event:
    """An event with its JSON read."""
    return Event(event.event, json.loads(event.data or "{}"), event.id)


class Followed:
    """Where a reader of a job's events stands."""

    def __init__(self, identity: str, retries: Retries) -> None:
        self.path = f"/jobs/{identity}/events"
        self.ended = False
        self._retries = retries
        self._breaks = 0
        self._last = ""

    @property
    def headers(self) -> dict[str, str]:
        """Those of the next connection."""
        return {"Last-Event-ID": self._last} if self._last else {}

    def seen(self, event: Event) -> Event:
        """Take note of an event."""
        self._breaks = 0
        self._last = event.id or self._last
        self.ended = event.kind in _LAST
        return event

    def refused(self, status: int | None, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait before the next connection; None: that was the answer."""
        self._breaks += 1
        return self._retries.wait(self._breaks, status, headers)

    def broken(self, fault: str) -> float:
        """Seconds to wait before the next connection; an error after too many in a row."""
        if self.ended:
            return 0.0
        self._breaks += 1
        wait = self._retries.wait(self._breaks, None, {})
        if wait is None:
            raise UnreachableError(fault)
        return wait
