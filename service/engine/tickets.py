"""The requests of one parent: what each waits for, by when, and what the engine has of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from unified_latents.service.engine.messages import (
    Accepted,
    Encode,
    Error,
    ErrorCode,
    Event,
    ModelCard,
    Progress,
    Ready,
    Request,
    Result,
    Snapshot,
)
from unified_latents.service.engine.outlook import Outlook
from unified_latents.service.engine.replay import MAX_DEATHS, Burial, Replay

_REPLACED = "another checkpoint has taken the place of the one that this request was for"
_LEAST = 1e-3
"""Seconds that a request sent again still has, if only to be told that they are over."""


@dataclass
class Ticket:
    """A request in flight, as the parent keeps it for a replay: from its last snapshot on."""

    request: Request
    deadline: float | None
    card: ModelCard | None
    """The model that it was checked against, and then the one that it runs on."""
    begun: bool = False
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def begin(self, accepted: Accepted, models: Iterable[ModelCard]) -> bool:
        """Whether an engine may go on with it on the checkpoint that it says.

        What has begun stays on its checkpoint. What has not may run on the one that took the place
        of its model, in the same space.
        """
        old, new = self.card, next((c for c in models if c.digest == accepted.model), None)
        if old is not None and old.digest == accepted.model:
            self.begun = True
        elif new is None or self.begun or (old and old.latent_space != new.latent_space):
            return False
        else:
            self.card, self.begun = new, True
        return True

    async def follow(self, clock: Callable[[], float]) -> AsyncGenerator[Event, None]:
        """Its events up to the end; no later than its deadline, whatever the engine does."""
        while True:
            left = None if self.deadline is None else self.deadline - clock()
            try:
                event = await asyncio.wait_for(self.events.get(), left)
            except TimeoutError:
                yield overdue(self.request.id)
                return
            yield event
            if isinstance(event, Result | Error):
                return


def overdue(number: int) -> Error:
    """What a request gets whose time is over."""
    return Error(number, "deadline_exceeded", "the time for this request is over")


class Tickets:
    """All requests in flight. `capacity` is the engine's rows a pass, for forecasts."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.outlook = Outlook(capacity)
        self.clock = clock
        self._ids = itertools.count(1)
        self._open: dict[int, Ticket] = {}
        self._replay = Replay()

    def __len__(self) -> int:
        return len(self._open)

    def eta(self, request: Request) -> float | None:
        """Seconds that a request would take if it came now; None where nothing is known."""
        return self.outlook.eta(request, self.clock())

    def open(self, request: Request, ready: Ready | None = None) -> Ticket:
        """A new request, checked against what was `ready`, under a number of its own."""
        number, now = next(self._ids), self.clock()
        deadline = None if request.timeout is None else now + request.timeout
        cards = ready.models if ready else ()
        card = next((card for card in cards if card.name == request.model), None)
        ticket = Ticket(msgspec.structs.replace(request, id=number), deadline, card)
        self._open[number] = ticket
        self._replay.add(number)
        self.outlook.enter(number, request, now)
        return ticket

    def forget(self, number: int) -> bool:
        """Drop a request that has ended; whether the engine still works on it."""
        ticket, now = self._open.pop(number, None), self.clock()
        late = ticket is not None and ticket.deadline is not None and now >= ticket.deadline
        self.outlook.leave(number, now if late else None)
        return self._replay.remove(number)

    def send(self) -> list[Request]:
        """What a running engine is to be given now, with the time that each still has."""
        return [self._now(self._open[number]) for number in self._replay.send()]

    def deliver(self, event: Event, ready: Ready | None = None) -> bool:
        """Pass an event on, that came while this was `ready`; whether it ended its request."""
        ticket = self._open.get(event.id)
        if ticket is None:
            return False
        if isinstance(event, Accepted) and not ticket.begin(event, ready.models if ready else ()):
            # Who follows leaves at this, and so the engine is told to forget the request.
            ticket.events.put_nowait(Error(event.id, "model_replaced", _REPLACED))
            return False
        ticket.events.put_nowait(event)
        if isinstance(event, Progress):
            self.outlook.progress(event.id, event.done / event.steps)
        if isinstance(event, Snapshot) and not isinstance(ticket.request, Encode):
            ticket.request = msgspec.structs.replace(ticket.request, resume=event)
        if isinstance(event, Result | Error):
            told = isinstance(event, Result) or event.code == "deadline_exceeded"
            self.outlook.leave(event.id, self.clock() if told else None)
            self.forget(event.id)
            return True
        return False

    def bury(self) -> Burial:
        """The engine died under all that it had; the requests that are lost with it have ended."""
        burial = self._replay.bury()
        for number in burial.lost:
            detail = f"{MAX_DEATHS} engines died under this request"
            self.deliver(Error(number, "engine_lost", detail))
        for number in self._open:
            self.outlook.progress(number, 0.0)
        return burial

    def end(self, code: ErrorCode, detail: str) -> None:
        """Every request ends with this error."""
        for number in list(self._open):
            self.deliver(Error(number, code, detail))

    def _now(self, ticket: Ticket) -> Request:
        if ticket.deadline is None:
            return ticket.request
        left = max(_LEAST, ticket.deadline - self.clock())
        return msgspec.structs.replace(ticket.request, timeout=left)
