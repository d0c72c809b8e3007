"""What a reader has still to be told of a request, however slowly it reads.

A newer progress takes the place of an older one, and so does a newer look at the same sample; the
end comes last. So a stream never holds more than two events and one look a sample.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from unified_latents.service.engine.messages import Error, Event, Preview, Result

log = logging.getLogger(__name__)


class Mailbox:
    """Events of one request, from one writer to one reader."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, int], Event] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """The newest of its kind; it goes behind what waits already."""
        key = (type(event).__name__, event.sample if isinstance(event, Preview) else 0)
        self._events.pop(key, None)
        self._events[key] = event
        self._filled.set()

    async def get(self) -> Event:
        """The oldest that waits."""
        await self._filled.wait()
        event = self._events.pop(next(iter(self._events)))
        if not self._events:
            self._filled.clear()
        return event


async def follow(
    first: Event, events: AsyncGenerator[Event, None], heartbeat: float
) -> AsyncGenerator[Event | None, None]:
    """The events worth telling, to the end; None after so many seconds without one.

    Leaving it closes `events`, which cancels the request.
    """
    box = Mailbox()
    box.put(first)
    pump = asyncio.ensure_future(_fill(box, events))
    try:
        while True:
            try:
                async with asyncio.timeout(heartbeat):
                    event = await box.get()
            except TimeoutError:
                yield None
                continue
            yield event
            if isinstance(event, Result | Error):
                return
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


async def _fill(box: Mailbox, events: AsyncGenerator[Event, None]) -> None:
    """Whatever happens, there is an end to tell."""
    try:
        async with aclosing(events):
            async for event in events:
                box.put(event)
                if isinstance(event, Result | Error):
                    return
        box.put(Error(0, "engine_lost", "the engine's events ended without a result"))
    except Exception:
        log.exception("a stream of events failed")
        box.put(Error(0, "engine_error", "the service failed; the log says how"))
