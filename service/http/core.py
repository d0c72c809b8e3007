"""What every route shares: the settings, the engine, the metrics, and how a request is run."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from unified_latents.service.cache import ResultCache
from unified_latents.service.engine.messages import (
    Error,
    Event,
    ModelCard,
    Progress,
    Ready,
    Result,
)
from unified_latents.service.engine.messages import Request as EngineRequest
from unified_latents.service.engine.seam import Engine, EngineError
from unified_latents.service.http.access.admission import Admission
from unified_latents.service.http.access.budgets import Budgets
from unified_latents.service.http.access.guard import Guard, needed
from unified_latents.service.http.access.memory import Memory
from unified_latents.service.http.problems import FieldError, Problem, patience, unavailable
from unified_latents.service.http.schemas import MAX_SEED
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.keys import Caller, KeyRing
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

_PICTURES_AT_ONCE = 2

T = TypeVar("T")


@dataclass
class Service:
    """The composition that routes work with."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    ring: KeyRing = field(default_factory=KeyRing)
    jobs: Jobs | None = None
    needs_jobs: bool = False
    """A worker: without the job store it is not ready."""
    draining: bool = False
    """After SIGTERM: what is in flight is finished, nothing new is taken."""
    _codecs: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(_PICTURES_AT_ONCE)
    )

    def ready(self) -> Ready:
        """What the engine loaded; a 503 while it has not."""
        if self.engine.ready is None:
            status = self.engine.status
            detail = f": {status.detail}" if status.detail else ""
            what = f"the engine is {status.state}{detail}"
            raise unavailable("not_ready", what, patience(status))
        return self.engine.ready

    @property
    def serving(self) -> bool:
        """Whether a request would be answered, by models that reproduced their recorded runs."""
        if self.draining or self.engine.status.state != "ready":
            return False
        return all(card.canary.ok for card in self.ready().models)

    def card(self, name: str | None) -> ModelCard:
        """A model by name, or the first one; a 404 for another name."""
        models = self.ready().models
        found = next((card for card in models if name in (None, card.name)), None)
        if found is None:
            message = "no such model"
            limit = ", ".join(card.name for card in models)
            error = FieldError(field="model", message=message, limit=limit)
            raise Problem(404, "unknown_model", message, [error])
        return found

    @functools.cached_property
    def guard(self) -> Guard:
        """Who may call what."""
        return Guard(self.ring, self.settings)

    @functools.cached_property
    def admission(self) -> Admission:
        """The door of the engine."""
        refused, limit = self.metrics.on_refusal, self.settings.queue_row_steps
        return Admission(self.engine, limit, refused, Budgets())

    @functools.cached_property
    def memory(self) -> Memory:
        """Results that were made before, where the operator gave a folder for them."""
        folder, bound = self.settings.cache, self.settings.cache_bytes
        return Memory(ResultCache(folder, bound, self.metrics.on_cache) if folder else None)

    async def events(self, caller: Caller, message: EngineRequest) -> AsyncGenerator[Event, None]:
        """The engine's events of a request; a Problem at once where it is not admitted."""
        if self.draining:
            self.metrics.on_refusal("draining")
            raise unavailable("shutting_down", "the service is shutting down")
        card, ready = self.card(message.model), self.ready()
        if kept := await self.memory.recall(message, card, ready):
            yield kept
            return
        with self.admission.enter(caller, message) as entry:
            async with aclosing(self.engine.submit(message)) as events:
                async for event in events:
                    if isinstance(event, Progress):
                        entry.progress(event.done, event.steps)
                    if isinstance(event, Result) and event.model == card.digest:
                        await self.memory.keep(message, card, ready, event)
                    yield event

    async def begin(
        self, request: Request, message: EngineRequest
    ) -> tuple[Event, AsyncGenerator[Event, None]]:
        """A request's first event, and the others; a Problem or EngineError where it has none."""
        return await self._unless_gone(request, self.open(caller(request), message))

    async def open(
        self, caller: Caller, message: EngineRequest
    ) -> tuple[Event, AsyncGenerator[Event, None]]:
        """`begin`, for a caller that has no connection of HTTP's."""
        events = self.events(caller, message)
        first = await anext(events)
        if isinstance(first, Error):
            await events.aclose()
            raise EngineError(first.code, first.detail)
        return first, events

    async def run(self, request: Request, message: EngineRequest) -> Result:
        """The engine's result; leaving the connection cancels the work between two passes."""
        return await self._unless_gone(request, self.result(caller(request), message))

    async def _unless_gone(self, request: Request, doing: Awaitable[T]) -> T:
        """The work's outcome; it is cancelled when the client leaves the connection."""
        work = asyncio.ensure_future(doing)
        gone = asyncio.ensure_future(_disconnect(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.metrics.cancelled.labels("running").inc()
                raise ClientDisconnect
            return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def result(self, caller: Caller, message: EngineRequest) -> Result:
        """The engine's result, for a caller that has no connection of HTTP's."""
        async with aclosing(self.events(caller, message)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event
                if isinstance(event, Error):
                    raise EngineError(event.code, event.detail)
        raise EngineError("engine_lost", "the engine's events ended without a result")

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Picture coding, off the event loop, a few at a time so that memory stays bounded."""
        return await anyio.to_thread.run_sync(function, limiter=self._codecs)


def of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


async def check_key(request: Request) -> None:
    """Runs before every route: who calls, and whether they may.

    A coroutine, though it waits for nothing: FastAPI hands a function to a thread.
    """
    scope = needed(request.scope.get("route"))
    authorization = request.headers.get("authorization")
    request.state.caller = of(request).guard.check(authorization, scope)


def caller(request: Request) -> Caller:
    """Who calls, as `check_key` found out."""
    found: Caller = request.state.caller
    return found


def accept(request: Request) -> str:
    """All of the Accept headers as one."""
    return ", ".join(request.headers.getlist("accept"))


def seed_or_random(seed: int | None) -> int:
    """The client's seed, or one of ours; it is reported either way."""
    return secrets.randbelow(MAX_SEED + 1) if seed is None else seed


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
