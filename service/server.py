"""`up`: settings, metrics, engine and application put together, and uvicorn around them."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import Checkpoint, Ready, Tick
from unified_latents.service.engine.seam import Observer
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.http.app import create_app
from unified_latents.service.http.images import refuse_damage
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

_MAX_HEAD = 32 * 2**10
"""Bytes of a request's line and headers, of a chunk's head, of trailers."""

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
            log.info(
                "model %s: %s, %d labels, %dx%d, canary %s",
                *(card.name, card.kind, len(card.labels), *card.size, canary),
            )
        log.info("ready: torch %s, numerics %s", ready.torch, ready.numerics_strict)

    def on_restart(self) -> None:
        """An engine has died."""
        self._metrics.on_restart()


class Server(uvicorn.Server):
    """uvicorn that leaves with status 0 on SIGTERM and SIGINT, its work done."""

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
        """Say where, once the port is bound: it may have been 0."""
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        for bound in self.servers:
            for listener in bound.sockets:
                host, port = listener.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                log.info("listening on http://%s:%d (docs: /docs)", host, port)


def engine_options(settings: Settings) -> EngineOptions:
    """What the settings say of the engine."""
    return EngineOptions(
        checkpoints=tuple(Checkpoint(name, path) for name, path in settings.served.items()),
        threads=settings.threads,
        max_rows=settings.max_rows,
        device=settings.device,
        max_pending=settings.max_pending,
    )


def serve(settings: Settings) -> bool:
    """Serve until a signal; whether it ever started. Call it from the main thread."""
    settings.home.mkdir(parents=True, exist_ok=True)
    refuse_damage()
    metrics = Metrics()
    engine = EngineClient(engine_options(settings), Announcer(metrics))
    config = uvicorn.Config(
        create_app(settings, engine, metrics),
        host=settings.host,
        port=settings.port,
        http="h11",  # the one that bounds a request's head; httptools keeps whatever is sent
        h11_max_incomplete_event_size=_MAX_HEAD,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.grace,
    )
    server = Server(config)
    names = ", ".join(f"{name} ({path})" for name, path in settings.served.items())
    log.info("loading %s; state in %s", names, settings.home)
    asyncio.run(server.serve())
    return server.started
