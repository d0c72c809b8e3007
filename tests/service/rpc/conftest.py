"""A real gRPC server around an engine in memory, and channels to it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from PIL import Image

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.core import Service
from unified_latents.service.keys import KeyRing
from unified_latents.service.metrics import Metrics
from unified_latents.service.rpc.details import DETAILS
from unified_latents.service.rpc.server import RpcServer
from unified_latents.service.settings import Settings


class Bench:
    """One service over gRPC."""

    def __init__(self, engine: FakeEngine, ring: KeyRing, settings: Settings) -> None:
        self.engine = engine
        self.service = Service(settings, engine, Metrics(), ring)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to the running server."""
        server = RpcServer(self.service)
        await self.engine.start()
        port = await server.start("127.0.0.1", 0)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            await server.stop(0)
            await self.engine.stop()

    def run(self, talk: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> Any:
        """What `talk` does with a channel."""

        async def whole() -> Any:
            async with self.channel() as channel:
                return await talk(channel)

        return asyncio.run(whole())


@pytest.fixture
def make_bench(fake: FakeEngine) -> Callable[..., Bench]:
    """A service with keys and settings of a test's own."""

    def make(ring: KeyRing | None = None, **settings: Any) -> Bench:
        said = {"max_body": 64 * 1024, "max_pixels": 10_000, **settings}
        return Bench(fake, ring or KeyRing(), Settings(**said))

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A service without keys."""
    return make_bench()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """A gray PNG of the fake model's size."""

    def draw() -> bytes:
        stream = io.BytesIO()
        Image.new("L", (8, 8), 77).save(stream, "PNG")
        return stream.getvalue()

    return draw


@pytest.fixture
def details() -> Callable[[grpc.aio.AioRpcError], dict[str, Any]]:
    """google.rpc's details of an error, by name, and its trailing metadata as `trailing`."""
    return _details


def _details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    trailing = dict(error.trailing_metadata())
    status = Status.FromString(trailing[DETAILS])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found: dict[str, Any] = {"trailing": trailing}
    for packed in status.details:
        kind = packed.TypeName().rpartition(".")[2]
        found[kind] = getattr(error_details_pb2, kind)()
        assert packed.Unpack(found[kind])
    return found
