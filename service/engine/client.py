"""`EngineClient`: an engine in a process of its own, restarted when it dies.

What was in flight at a death is sent again to the next engine and gives the same bytes, because
noise is a function of its keys. A request that saw `MAX_DEATHS` engines die is the likely cause
and fails alone with `engine_lost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec

from unified_latents.service.engine import frames
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Cancel,
    Error,
    Event,
    Failed,
    Message,
    Ready,
    Request,
    Result,
    Tick,
)
from unified_latents.service.engine.seam import NotReadyError, Observer, State, Status
from unified_latents.service.engine.spawn import EngineOptions, EngineProcess, spawn

MAX_DEATHS = 3
_BACKOFF = (0.0, 0.2, 1.0, 5.0, 30.0)
_STREAM_LIMIT = 2**20

log = logging.getLogger(__name__)


@dataclass
class _Ticket:
    """A request in flight, as the parent keeps it for a replay."""

    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    sent: bool = False
    deaths: int = 0


class EngineClient:
    """Owns one engine process at a time. Use it from one event loop, in the main thread."""

    def __init__(self, options: EngineOptions, observer: Observer | None = None) -> None:
        self._options = options
        self._observer = observer
        self._ids = itertools.count(1)
        self._tickets: dict[int, _Ticket] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._process: EngineProcess | None = None
        self._state: State = "stopped"
        self._detail = ""
        self._ready: Ready | None = None
        self._restarts = 0
        self._last_step = time.monotonic()

    @property
    def ready(self) -> Ready | None:
        """What the engine loaded; None before the first start has ended."""
        return self._ready

    @property
    def status(self) -> Status:
        """The state now."""
        return Status(
            state=self._state,
            detail=self._detail,
            in_flight=len(self._tickets),
            restarts=self._restarts,
            step_age=time.monotonic() - self._last_step if self._tickets else 0.0,
            pid=self._process.pid if self._process else None,
        )

    async def start(self) -> None:
        """Spawn the engine and return; `status` tells when it is ready."""
        if self._supervisor is None:
            self._state = "starting"
            self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """End the engine and fail what is still in flight."""
        self._state = "stopped"
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        for number in list(self._tickets):
            self._end(number, "engine_lost", "the service is shutting down")

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of one request; `NotReadyError` where no engine can take it."""
        number, ticket = self._admit(request)
        try:
            while True:
                event = await ticket.events.get()
                yield event
                if isinstance(event, Result | Error):
                    return
        finally:
            if self._tickets.pop(number, None) is not None and ticket.sent:
                self._send(Cancel(number))

    def _admit(self, request: Request) -> tuple[int, _Ticket]:
        if self._state in ("failed", "stopped") or self._ready is None:
            raise NotReadyError("not_ready", f"the engine is {self._state}")
        if len(self._tickets) >= self._options.max_pending:
            raise NotReadyError("busy", f"{len(self._tickets)} requests are already in flight")
        if not self._tickets:
            self._last_step = time.monotonic()
        number = next(self._ids)
        ticket = _Ticket(msgspec.structs.replace(request, id=number))
        self._tickets[number] = ticket
        if self._state == "ready":
            self._submit(ticket)
        return number, ticket

    def _submit(self, ticket: _Ticket) -> None:
        ticket.sent = True
        self._send(ticket.request)

    def _send(self, message: msgspec.Struct) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.pack(message))

    async def _supervise(self) -> None:
        """One engine after another until `stop`, or until one says that it cannot start."""
        attempt = 0
        while True:
            was_ready = await self._run_engine()
            if self._state == "failed":
                return
            self._restarts += 1
            self._state = "restarting"
            self._bury()
            if self._observer:
                self._observer.on_restart()
            attempt = 0 if was_ready else attempt + 1
            delay = 0.0 if was_ready else _BACKOFF[min(attempt, len(_BACKOFF)) - 1]
            await asyncio.sleep(delay)

    async def _run_engine(self) -> bool:
        """One engine's whole life; whether it got as far as being ready."""
        before = self._ready
        try:
            self._process = spawn(self._options)
        except OSError as error:
            log.exception("no engine could be spawned")
            self._detail = f"no engine could be spawned: {error.strerror}"
            return False
        try:
            reader, self._writer = await asyncio.open_connection(
                sock=self._process.pipe, limit=_STREAM_LIMIT
            )
            self._writer.write(frames.pack(self._options.hello))
            await self._listen(reader)
        except frames.FrameError:
            log.exception("the engine broke the protocol")
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            process, self._process = self._process, None
            status = await asyncio.shield(process.close())
        log.warning("the engine (pid %d) ended with status %d", process.pid, status)
        return self._ready is not before

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.msgpack.Decoder(Message)
        while (message := await frames.read(reader, decoder)) is not None:
            match message:
                case Ready():
                    self._on_ready(message)
                case Failed():
                    self._state, self._detail = "failed", message.detail
                    log.error("the engine cannot start: %s", message.detail)
                case Tick():
                    self._last_step = time.monotonic()
                    if self._observer:
                        self._observer.on_tick(message)
                case _:
                    self._deliver(message)

    def _on_ready(self, ready: Ready) -> None:
        if ready.protocol != PROTOCOL:
            raise frames.FrameError(f"protocol {ready.protocol}, not {PROTOCOL}")
        self._ready, self._state, self._detail = ready, "ready", ""
        self._last_step = time.monotonic()
        if self._observer:
            self._observer.on_ready(ready)
        for ticket in self._tickets.values():
            self._submit(ticket)

    def _deliver(self, event: Event) -> None:
        ticket = self._tickets.get(event.id)
        if ticket is None:
            return
        if isinstance(event, Result | Error):
            del self._tickets[event.id]
        ticket.events.put_nowait(event)

    def _bury(self) -> None:
        """Count the death for every request that the dead engine had."""
        for number, ticket in list(self._tickets.items()):
            ticket.deaths += ticket.sent
            ticket.sent = False
            if ticket.deaths >= MAX_DEATHS:
                self._end(number, "engine_lost", f"{MAX_DEATHS} engines died under this request")

    def _end(self, number: int, code: str, detail: str) -> None:
        event = msgspec.convert({"id": number, "code": code, "detail": detail}, Error)
        self._deliver(event)
