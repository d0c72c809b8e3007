"""`up`: settings, metrics, engine and application put together, and uvicorn around them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn

from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import Checkpoint, Ready
from unified_latents.service.engine.seam import Death, Engine, Observer
from unified_latents.service.engine.spawn import EngineOptions, packages
from unified_latents.service.engine.telemetry import Tick
from unified_latents.service.http.app import ROOMS, WORKER_ROOMS, create_app
from unified_latents.service.http.calls import answer_of
from unified_latents.service.http.core import Service
from unified_latents.service.http.images import refuse_damage
from unified_latents.service.http.stream.stall import Connection
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.keys import KeyRing
from unified_latents.service.metrics import Metrics
from unified_latents.service.rpc.server import RpcServer
from unified_latents.service.settings import Settings

_MAX_HEAD = 32 * 2**10
"""Bytes of a request's line and headers, of a chunk's head, of trailers."""
_OTHER_FILES = 256
"""Descriptors that are not clients' connections: the job store's, objects, the engine's pipes."""
_POLL = 0.05
_LAST_ANSWERS = 5
"""Seconds in which answers are written out after the engine has ended."""

log = logging.getLogger("unified_latents.service")


class Announcer(Observer):
    """Passes everything on to the metrics, and tells the operator when the models are loaded."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_tick(self, tick: Tick) -> None:
        """A pass."""
        self._metrics.on_tick(tick)

    def on_ready(self, ready: Ready) -> None:
        """An engine has loaded."""
        self._metrics.on_ready(ready)
        for card in ready.models:
            canary = "ok" if card.canary.ok else "FAILED"
            size = "x".join(map(str, card.size))
            compiled = ", ".join(card.compiled) or "no network"
            log.info(
                "model %s: %s, %d labels, %s, canary %s, %s compiled",
                *(card.name, card.kind, len(card.labels), size, canary, compiled),
            )
        log.info("ready: torch %s, numerics %s", ready.torch, ready.numerics_strict)

    def on_death(self, death: Death) -> None:
        """An engine has died."""
        self._metrics.on_death(death)
        log.warning("engine lost (%s): %d replayed, %d lost, %d quarantined", *death)


class Server(uvicorn.Server):
    """uvicorn that leaves with status 0 on SIGTERM and SIGINT, its work done.

    After the first signal it goes on listening, not ready and refusing work, until what is in
    flight has been answered or `grace` is over; a second signal ends the wait.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, rpc: RpcServer | None = None
    ) -> None:
        super().__init__(config)
        self._service = service
        self._rpc = rpc
        self._drain: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal."""
        if self._drain is None:
            self._service.draining = True
            self._drain = asyncio.get_running_loop().create_task(self._finish())
        else:
            self._hurry.set()

    async def _finish(self) -> None:
        engine, grace = self._service.engine, self._service.settings.grace
        jobs = self._service.jobs
        if jobs is not None:
            await jobs.retire()
        log.info("draining: %d requests in flight", engine.status.in_flight)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await drained(engine, self._hurry, jobs)
            if jobs is not None:
                await jobs.stop()
            await engine.stop()
        finally:
            self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The event loop's handlers; uvicorn's own would raise the signal again at the end."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Say where, once the ports are bound: they may have been 0.

        What stands by then is left out of collections: a whole one would stop the event loop.
        """
        if not await self._start_rpc():
            self.should_exit = True
            return
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        if self._rpc is not None and not self.started:
            await self._rpc.stop(0)
        for bound in self.servers:
            for listener in bound.sockets:
                host, port = listener.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                log.info("listening on http://%s:%d (docs: /docs)", host, port)
        gc.freeze()

    async def _start_rpc(self) -> bool:
        """Before HTTP, whose start brings up the engine: a taken port is found out first."""
        if self._rpc is None:
            return True
        host, port = self.config.host, self._service.settings.grpc_port or 0
        try:
            bound = await self._rpc.start(host, port)
        except RuntimeError:
            log.error("gRPC cannot listen on %s port %d", host, port)
            return False
        log.info("gRPC on %s port %d", host, bound)
        return True

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Let both kinds of answers be written out."""
        if self._rpc is not None:
            await self._rpc.stop(_LAST_ANSWERS)
        await super().shutdown(sockets=sockets)  # type: ignore[arg-type]


async def drained(engine: Engine, hurry: asyncio.Event, jobs: Jobs | None = None) -> None:
    """Until nothing is in flight, or `hurry` is set."""
    while (engine.status.in_flight or (jobs and jobs.busy)) and not hurry.is_set():
        await asyncio.sleep(_POLL)


def engine_options(settings: Settings) -> EngineOptions:
    """What the settings say of the engine."""
    return EngineOptions(
        checkpoints=tuple(Checkpoint(name, path) for name, path in settings.served.items()),
        threads=settings.threads,
        max_rows=settings.max_rows,
        device=settings.device,
        kernels=settings.kernels,
        max_pending=settings.max_pending,
        hang=settings.hang,
        patience=settings.patience,
        cache=settings.home / "cache",
        compiled=packages(settings.compiled),
        graphs=settings.graphs,
    )


def room_for(connections: int) -> int:
    """How many of them the process has descriptors for; its soft limit is raised as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - _OTHER_FILES))


def _protocol(settings: Settings) -> partial[Connection]:
    """What speaks with each client."""
    return partial(
        Connection,
        stall=settings.stall,
        read_timeout=settings.read_timeout,
        limit=room_for(settings.max_connections),
    )


def serve(settings: Settings, ring: KeyRing, *, worker: bool = False) -> bool:
    """Serve until a signal; whether it ever started. Call it from the main thread.

    A `worker` takes jobs only, and answers for itself alone.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    refuse_damage()
    metrics = Metrics()
    engine = EngineClient(engine_options(settings), Announcer(metrics))
    jobs = Jobs(settings, engine, metrics, answer_of) if settings.jobs else None
    rooms = WORKER_ROOMS if worker else ROOMS
    app = create_app(settings, engine, metrics, ring, jobs, rooms=rooms)
    app.state.service.needs_jobs = worker
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # h11 is the one that bounds a request's head; httptools keeps whatever is sent
        http=_protocol(settings),  # type: ignore[arg-type]
        h11_max_incomplete_event_size=_MAX_HEAD,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS,
    )
    silent = worker or settings.grpc_port is None
    rpc = None if silent else RpcServer(app.state.service)
    server = Server(config, app.state.service, rpc)
    names = ", ".join(f"{name} ({path})" for name, path in settings.served.items())
    log.info("loading %s; state in %s", names, settings.home)
    asyncio.run(server.serve())
    return server.started
