"""How the server takes its signals, around an engine in memory."""

from __future__ import annotations

import asyncio
import signal

import pytest
import uvicorn

from tests.service.engine.test_client import generate
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.seam import EngineError, result
from unified_latents.service.http.core import Service
from unified_latents.service.metrics import Metrics
from unified_latents.service.server import Server
from unified_latents.service.settings import Settings


def test_two_signals_in_one_turn_of_the_loop_end_the_wait() -> None:
    """A terminal's Ctrl-C and a supervisor's SIGTERM may come together."""

    async def run() -> None:
        engine = FakeEngine(fake_card("m"))
        await engine.start()
        service = Service(Settings(grace=600), engine, Metrics())
        server = Server(uvicorn.Config("unused"), service)
        with engine.hold():
            pending = asyncio.ensure_future(result(engine, generate()))
            while not engine.in_flight:
                await asyncio.sleep(0)
            server.handle_exit(signal.SIGINT, None)
            server.handle_exit(signal.SIGTERM, None)
            assert service.draining
            with pytest.raises(EngineError):
                await pending
        async with asyncio.timeout(60):
            while not server.should_exit:
                await asyncio.sleep(0)

    asyncio.run(run())
