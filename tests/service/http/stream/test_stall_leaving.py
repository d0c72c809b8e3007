"""Clients that end their side: some have left, and some still wait for their answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvicorn

from tests.service.http.stream.test_stall import _protocol
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

LARGE = msgspec.structs.replace(fake_card(), size=(512, 512))
PLAIN = b'{"label": 0, "seed": 1}'
STREAM = b'{"label": 0, "seed": 1, "stream": true}'
LONG_STREAM = b'{"label": 0, "n": 24, "stream": true, "previews": 16}'


def _post(body: bytes, version: str = "1.1") -> bytes:
    head = f"POST /generate HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def _serving(engine: FakeEngine) -> AsyncIterator[tuple[Any, Any]]:
    """The address of a service without heartbeats, and who is connected to it."""
    app = create_app(Settings(heartbeat=3600), engine, Metrics())
    config = uvicorn.Config(app, http="h11", lifespan="off", log_config=None)
    config.load()
    await engine.start()
    protocol = _protocol(config)
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1")
    try:
        yield server.sockets[0].getsockname(), protocol.keywords["server_state"]
    finally:
        server.close()


async def _until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("sent", "answers", "end"),
    [
        (_post(PLAIN), 1, b"}"),
        (_post(STREAM), 1, b"0\r\n\r\n"),
        (_post(PLAIN) + _post(PLAIN), 2, b"}"),
        (_post(PLAIN) + _post(STREAM), 2, b"0\r\n\r\n"),
        (_post(PLAIN) + b"GET /heal", 1, b"}"),
        (_post(PLAIN) + _post(PLAIN)[:-1], 1, b"}"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_whoever_only_says_no_more_is_answered(
    sent: bytes, answers: int, end: bytes, begun: bool
) -> None:
    """Everything that was wholly asked, whether or not its answer had begun; then it ends."""

    async def run() -> bytes:
        engine = FakeEngine()
        async with _serving(engine) as (address, state):
            reader, writer = await asyncio.open_connection(*address)
            with engine.hold():
                if begun:
                    writer.write(sent)
                    await _until(lambda: engine.requests)
                    writer.write_eof()
                else:
                    writer.write(sent)
                    writer.write_eof()
                    await _until(lambda: engine.requests)
                await _until(lambda: any(each._glance for each in state.connections))
            answer = await reader.read()
            writer.close()
            await _until(lambda: not state.connections)
            assert not engine.in_flight
            return answer

    answer = asyncio.run(asyncio.wait_for(run(), 60))
    assert answer.count(b"HTTP/1.1 200 ") == answers
    assert answer.endswith(end)


@pytest.mark.parametrize("body", [PLAIN, STREAM])
@pytest.mark.parametrize("begun", [False, True])
def test_whoever_has_left_stops_the_work(body: bytes, begun: bool) -> None:
    """Though nothing happens that could be told, and no heartbeat comes."""

    async def run() -> None:
        engine = FakeEngine()
        async with _serving(engine) as (address, state):
            with engine.hold():
                _, writer = await asyncio.open_connection(*address)
                writer.write(_post(body))
                await writer.drain()
                await _until(lambda: engine.requests if begun else state.tasks)
                writer.close()
                await _until(lambda: not (state.connections or state.tasks))
                assert len(engine.cancelled) == len(engine.requests)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_older_client_that_ends_has_left() -> None:
    """It would not understand what tells one from the other."""

    async def run() -> None:
        engine = FakeEngine()
        async with _serving(engine) as (address, _):
            with engine.hold():
                _, writer = await asyncio.open_connection(*address)
                writer.write(_post(PLAIN, "1.0"))
                await _until(lambda: engine.requests)
                writer.write_eof()
                await _until(lambda: engine.cancelled)
                writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("leaves", [False, True])
def test_nothing_is_written_to_whom_has_gone(
    caplog: pytest.LogCaptureFixture, leaves: bool
) -> None:
    """A full buffer, and then the end: asyncio would say that its writes fail."""
    caplog.set_level(logging.WARNING)

    async def run() -> None:
        engine = FakeEngine(LARGE)
        async with _serving(engine) as (address, state):
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(address)
            with engine.hold():
                slow.sendall(_post(LONG_STREAM))
                await _until(lambda: engine.requests)
            await _until(lambda: any(each.flow.write_paused for each in state.connections))
            slow.shutdown(socket.SHUT_WR)
            await _until(lambda: any(each._ended for each in state.connections))
            if leaves:
                slow.close()
            else:
                received = await asyncio.to_thread(_drain, slow)
                assert b"event: result" in received
                assert received.endswith(b"0\r\n\r\n")
            await _until(lambda: not state.connections)
            await _until(lambda: not engine.in_flight)
            slow.close()

    asyncio.run(asyncio.wait_for(run(), 120))
    assert [record.getMessage() for record in caplog.records] == []


def _drain(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(2**20):
        received += piece
    return bytes(received)
