"""`Engine`: all that the rest of the service knows about the process that owns the models.

`submit` turns a request into a stream of events that ends with `Result` or `Error`. Leaving the
stream early cancels the request. The real engine (`client`) and the in-memory one (`fake`) pass
the same tests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from unified_latents.service.engine.messages import Error, Event, ModelCard, Ready, Request, Result
from unified_latents.service.engine.telemetry import Costs, Tick

State = Literal["starting", "ready", "unresponsive", "restarting", "failed", "stopped"]
Reason = Literal["exit", "hang", "protocol"]


class Death(NamedTuple):
    """The end of an engine that nobody asked for."""

    reason: Reason
    replayed: int
    """Requests in flight that the next engine will answer."""
    lost: int
    """Requests that end with `engine_lost`."""
    quarantined: int = 0
    """Requests that are tried alone from here on, because two engines died under them."""


@dataclass(frozen=True)
class Status:
    """What is true of the engine now; `detail` says why where it failed."""

    state: State
    detail: str = ""
    in_flight: int = 0
    restarts: int = 0
    step_age: float = 0.0
    """Seconds since the last forward pass ended while there is work; 0 when idle."""
    pid: int | None = None
    drain: float = 0.0
    """Forecast of the seconds until all that the engine has now is done."""


class EngineError(Exception):
    """A request that the engine ended with an error of its own."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class NotReadyError(EngineError):
    """There is no engine to take a request: still loading, failed, stopped, or full."""


class Observer(Protocol):
    """Who wants to know of every forward pass and every death."""

    def on_tick(self, tick: Tick) -> None: ...

    def on_ready(self, ready: Ready) -> None: ...

    def on_death(self, death: Death) -> None: ...


class Engine(Protocol):
    """One engine, as its parent sees it."""

    @property
    def ready(self) -> Ready | None:
        """What is loaded; None until the first start has ended. Kept over restarts."""
        ...

    @property
    def costs(self) -> Costs:
        """What passes have been measured to cost; empty before the first."""
        ...

    def eta(self, request: Request) -> float | None:
        """Seconds that a request would take if it came now; None where nothing is known."""
        ...

    @property
    def status(self) -> Status: ...

    async def start(self) -> None:
        """Begin to load; returns at once."""
        ...

    async def stop(self) -> None:
        """End the engine; requests in flight fail with `shutting_down`."""
        ...

    async def reload(self, name: str, path: str, *, other_space: bool = False) -> ModelCard:
        """Serve the checkpoint in `path` as `name` from now on; rows on their way keep the old one.

        `EngineError`: `load_failed` says what is wrong with it, and nothing has changed.
        """
        ...

    async def unload(self, name: str) -> None:
        """Serve a model no longer; `EngineError` (`load_failed`) where there is none."""
        ...

    def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of one request. Its `id` is replaced by the engine's own."""
        ...


async def result(engine: Engine, request: Request) -> Result:
    """Only the end of a request; `EngineError` if it failed."""
    async with aclosing(engine.submit(request)) as events:
        async for event in events:
            if isinstance(event, Result):
                return event
            if isinstance(event, Error):
                raise EngineError(event.code, event.detail)
    raise EngineError("engine_lost", "the engine's events ended without a result")
