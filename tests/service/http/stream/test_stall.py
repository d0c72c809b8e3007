"""A client that never reads, on a real socket beside one that does."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import msgspec
import uvicorn
from uvicorn.server import ServerState

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.http.stream.stall import Connection
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

STALL = 0.4
LARGE = msgspec.structs.replace(fake_card(), size=(512, 512))
BODY = b'{"label": 0, "n": 24, "stream": true, "previews": 16, "format": "png"}'


def _post(body: bytes) -> bytes:
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _protocol(
    config: uvicorn.Config, stall: float = 30.0, read_timeout: float = 30.0, limit: int = 1024
) -> partial[Connection]:
    """What `server.py` gives uvicorn, for one server."""
    limits: dict[str, Any] = {"stall": stall, "read_timeout": read_timeout, "limit": limit}
    return partial(Connection, config=config, server_state=ServerState(), app_state={}, **limits)


def test_a_client_that_never_reads_is_dropped_and_blocks_nobody() -> None:
    async def run() -> None:
        engine, loop = FakeEngine(LARGE), asyncio.get_running_loop()
        metrics = Metrics()
        app = create_app(Settings(), engine, metrics)
        config = uvicorn.Config(app, http="h11", log_config=None)
        config.load()
        await engine.start()
        protocol = _protocol(config, stall=STALL)
        server = await loop.create_server(protocol, "127.0.0.1")
        address = server.sockets[0].getsockname()
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(address)
        deaf.sendall(_post(BODY))
        while not engine.requests:
            await asyncio.sleep(0.01)
        other = await _answer(address, _post(b'{"label": 0}'))
        assert other.startswith(b"HTTP/1.1 200")
        running = {"phase": "running"}
        while metrics.registry.get_sample_value("ul_cancelled_total", running) != 1:
            await asyncio.sleep(0.01)
        assert engine.in_flight == set()
        assert app.state.service.admission.queued == 0
        received = b""
        try:
            while piece := deaf.recv(2**20):
                received += piece
        except ConnectionResetError:
            pass
        assert b"event: accepted" in received
        assert b"event: result" not in received
        deaf.close()
        server.close()

    asyncio.run(asyncio.wait_for(run(), 120))


async def _answer(address: tuple[str, int], request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def test_a_slow_reader_is_left_in_peace() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise NotImplementedError

    class Buffer:
        def __init__(self) -> None:
            self.size, self.aborted = 100, False

        def get_write_buffer_size(self) -> int:
            return self.size

        def abort(self) -> None:
            self.aborted = True

    async def run(shrinks: bool) -> bool:
        config = uvicorn.Config(app, http="h11", log_config=None)
        config.load()
        connection = _protocol(config, stall=0.08)()
        buffer = Buffer()
        connection.transport = buffer  # type: ignore[assignment]
        connection._begin()
        for _ in range(20):
            await asyncio.sleep(0.01)
            buffer.size -= shrinks
        connection._end()
        return buffer.aborted

    assert asyncio.run(run(shrinks=False))
    assert not asyncio.run(run(shrinks=True))
