"""`EngineClient`: an engine in a process of its own, restarted when it dies.

What was in flight at a death is sent again to the next engine and gives the same bytes, because
noise is a function of its keys; `replay` says in which order, and which request is the culprit.
An engine that ends no pass, or answers no ping, for too long is killed and replaced, as
`watchdog` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import msgspec

from unified_latents.service.engine import frames
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Cancel,
    Checkpoint,
    Event,
    ModelCard,
    Ready,
    Request,
)
from unified_latents.service.engine.protocol import (
    Failed,
    Load,
    Loaded,
    Message,
    Ping,
    Pong,
    Unload,
)
from unified_latents.service.engine.seam import (
    Death,
    NotReadyError,
    Observer,
    Reason,
    State,
    Status,
)
from unified_latents.service.engine.spawn import EngineOptions, EngineProcess, spawn
from unified_latents.service.engine.swaps import Swaps, described, served
from unified_latents.service.engine.telemetry import Costs, Tick
from unified_latents.service.engine.tickets import Ticket, Tickets
from unified_latents.service.engine.watchdog import PERIOD, Watchdog

_BACKOFF = (0.0, 0.2, 1.0, 5.0, 30.0)
_STREAM_LIMIT = 2**20

log = logging.getLogger(__name__)


class EngineClient:
    """Owns one engine process at a time. Use it from one event loop, in the main thread."""

    def __init__(self, options: EngineOptions, observer: Observer | None = None) -> None:
        self._options = options
        self._observer = observer
        self._tickets = Tickets(options.max_rows)
        self._supervisor: asyncio.Task[None] | None = None
        self._watchdog = Watchdog(options.hang, options.patience)
        self._writer: asyncio.StreamWriter | None = None
        self._process: EngineProcess | None = None
        self._state: State = "stopped"
        self._detail = ""
        self._ready: Ready | None = None
        self._restarts = 0
        self._last_step = time.monotonic()
        self._reason: Reason = "exit"
        self._drained_at = 0.0
        self._swaps = Swaps()

    @property
    def ready(self) -> Ready | None:
        """What the engine loaded; None before the first start has ended."""
        return self._ready

    @property
    def costs(self) -> Costs:
        """What the engine has measured."""
        return self._tickets.outlook.costs

    def eta(self, request: Request) -> float | None:
        """Seconds that a request would take if it came now; None where nothing is known."""
        return self._tickets.eta(request)

    @property
    def status(self) -> Status:
        """The state now."""
        silent = self._state == "ready" and self._watchdog.silent
        return Status(
            state="unresponsive" if silent else self._state,
            detail=self._detail,
            in_flight=len(self._tickets),
            restarts=self._restarts,
            step_age=time.monotonic() - self._last_step if self._tickets else 0.0,
            pid=self._process.pid if self._process else None,
            drain=max(0.0, self._drained_at - time.monotonic()) if self._tickets else 0.0,
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
        self._swaps.abandon()
        self._tickets.end("shutting_down", "the service is shutting down")

    async def reload(self, name: str, path: str, *, other_space: bool = False) -> ModelCard:
        """Serve the checkpoint in `path` as `name` from now on; rows on their way keep the old one.

        `EngineError`: `load_failed` says what is wrong with it, and nothing has changed.
        """
        asked = self._swaps.load(Checkpoint(name, path), other_space=other_space)
        return msgspec.convert(await self._swap(asked), ModelCard)

    async def unload(self, name: str) -> None:
        """Serve a model no longer."""
        await self._swap(self._swaps.unload(name))

    async def _swap(self, asked: Load | Unload) -> ModelCard | None:
        if self._state != "ready":
            raise NotReadyError("not_ready", f"the engine is {self._state}")
        self._send(asked)
        return await self._swaps.wait(asked)

    def _on_loaded(self, message: Loaded) -> None:
        """What was swapped is what the next engine loads, too."""
        asked = self._swaps.answer(message)
        if asked is None or self._ready is None:
            return
        checkpoints = served(self._options.checkpoints, asked)
        self._options = replace(self._options, checkpoints=checkpoints)
        self._ready = described(self._ready, asked, message.card)
        if self._observer:
            self._observer.on_ready(self._ready)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of one request; `NotReadyError` where no engine can take it."""
        ticket = self._admit(request)
        try:
            async with aclosing(ticket.follow(self._tickets.clock)) as events:
                async for event in events:
                    yield event
        finally:
            if self._tickets.forget(ticket.request.id):
                self._send(Cancel(ticket.request.id))
            self._dispatch()

    def _admit(self, request: Request) -> Ticket:
        if self._state in ("failed", "stopped") or self._ready is None:
            raise NotReadyError("not_ready", f"the engine is {self._state}")
        if len(self._tickets) >= self._options.max_pending:
            raise NotReadyError("busy", f"{len(self._tickets)} requests are already in flight")
        if not self._tickets:
            self._last_step = time.monotonic()
        ticket = self._tickets.open(request, self._ready)
        self._dispatch()
        return ticket

    def _dispatch(self) -> None:
        """Give the engine what it may have now."""
        if self._state == "ready":
            for request in self._tickets.send():
                self._send(request)

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
            attempt = 0 if was_ready else attempt + 1
            delay = 0.0 if was_ready else _BACKOFF[min(attempt, len(_BACKOFF)) - 1]
            await asyncio.sleep(delay)

    async def _run_engine(self) -> bool:
        """One engine's whole life; whether it got as far as being ready."""
        before, self._reason = self._ready, "exit"
        try:
            self._process = spawn(self._options)
        except OSError as error:
            log.exception("no engine could be spawned")
            self._detail = f"no engine could be spawned: {error.strerror}"
            return False
        self._watchdog = Watchdog(self._options.hang, self._options.patience)
        watching = asyncio.create_task(self._watch(self._process))
        try:
            reader, self._writer = await asyncio.open_connection(
                sock=self._process.pipe, limit=_STREAM_LIMIT
            )
            self._writer.write(frames.pack(self._options.hello))
            await self._listen(reader)
        except frames.FrameError:
            log.exception("the engine broke the protocol")
            self._reason = "protocol"
        finally:
            watching.cancel()
            status = await self._part()
        log.warning("the engine ended with status %d", status)
        return self._ready is not before

    async def _part(self) -> int:
        """Leave the engine: not ready from here on, however long the process takes to end."""
        if self._state == "ready":
            self._state = "restarting"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process, self._process = self._process, None
        return await asyncio.shield(process.close()) if process else 0

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.msgpack.Decoder(Message)
        while (message := await frames.read(reader, decoder)) is not None:
            self._watchdog.heard()
            self._hear(message)

    def _hear(self, message: Message) -> None:
        match message:
            case Ready():
                self._on_ready(message)
            case Failed():
                self._state, self._detail = "failed", message.detail
                log.error("the engine cannot start: %s", message.detail)
            case Tick():
                self._on_tick(message)
            case Pong():
                self._watchdog.answered(message.turn)
            case Costs():
                self._tickets.outlook.learn(message)
            case Loaded():
                self._on_loaded(message)
            case _ if self._tickets.deliver(message, self._ready):
                self._dispatch()

    def _on_tick(self, tick: Tick) -> None:
        self._watchdog.stepped()
        self._last_step = time.monotonic()
        self._drained_at = self._last_step + tick.drain
        if self._observer:
            self._observer.on_tick(tick)

    def _on_ready(self, ready: Ready) -> None:
        if ready.protocol != PROTOCOL:
            raise frames.FrameError(f"protocol {ready.protocol}, not {PROTOCOL}")
        self._ready, self._state, self._detail = ready, "ready", ""
        self._last_step = time.monotonic()
        if self._observer:
            self._observer.on_ready(ready)
        self._dispatch()

    async def _watch(self, process: EngineProcess) -> None:
        """Kill an engine that hangs: its end of the pipe closes, and the rest is a death."""
        while True:
            working = self._state == "ready" and bool(self._tickets)
            if fault := self._watchdog.round(working=working):
                break
            self._send(Ping())
            await asyncio.sleep(PERIOD)
        log.error("the engine (pid %d) hangs: %s", process.pid, fault)
        self._reason = "hang"
        process.kill()

    def _bury(self) -> None:
        """The death of an engine, for the requests that it had."""
        burial = self._tickets.bury()
        self._swaps.abandon()
        if self._observer:
            lost, left = len(burial.lost), len(self._tickets)
            self._observer.on_death(Death(self._reason, left, lost, burial.suspects))
