"""Requests that are never finished, and more clients than there is room for, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from unified_latents.service.http.stream.stall import Connection

READ = 0.3
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
Message = MutableMapping[str, Any]


async def _app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]
) -> None:
    """Reads a body, thinks for longer than a client may, and says how long it was."""
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"made", "more_body": True})
    await asyncio.sleep(3 * READ)
    await send({"type": "http.response.body", "body": b" %d" % size})


async def _listen(limit: int = 1024) -> tuple[asyncio.Server, ServerState]:
    config = uvicorn.Config(_app, http="h11", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    limits: dict[str, Any] = {"stall": 30.0, "read_timeout": READ, "limit": limit}
    protocol = partial(Connection, config=config, server_state=state, app_state={}, **limits)
    return await asyncio.get_running_loop().create_server(protocol, "127.0.0.1"), state


async def _said(server: asyncio.Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that is answered to `parts` until the connection ends."""
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause)
    answer = b""
    try:
        while piece := await reader.read(2**16):
            answer += piece
    except ConnectionResetError:
        pass
    writer.close()
    return answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HT",
        HEAD,
        HEAD + b"Content-Length: 1000\r\n\r\n12345678",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\n1234",
        HEAD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n1",
        HEAD + b"Content-Length: 0\r\n\r\nGET / HT",
    ],
)
def test_a_request_that_is_never_finished_ends_with_its_connection(sent: bytes) -> None:
    async def run() -> None:
        server, state = await _listen()
        answer = await _said(server, sent)
        whole = b"Content-Length: 0" in sent or b"/early" in sent
        assert (b"made" in answer) == whole
        while state.connections or state.tasks:
            await asyncio.sleep(0.01)
        server.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_head_that_comes_by_the_byte_is_not_awaited_for_ever() -> None:
    async def run() -> None:
        server, state = await _listen()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(HEAD)
        while not reader.at_eof():
            writer.write(b"a: b\r\n")
            await asyncio.sleep(READ / 10)
            if reader.exception():
                break
        while state.connections:
            await asyncio.sleep(0.01)
        writer.close()
        server.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_slow_body_and_a_slow_answer_are_left_in_peace() -> None:
    async def run() -> None:
        server, _ = await _listen()
        head = HEAD + b"Connection: close\r\nContent-Length: 10\r\n\r\n"
        answer = await _said(server, head, *[b"1"] * 10, pause=READ / 5)
        assert answer.endswith(b" 10\r\n0\r\n\r\n")
        server.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_one_connection_too_many_is_told_to_come_back() -> None:
    async def run() -> None:
        server, state = await _listen(limit=2)
        address = server.sockets[0].getsockname()
        held = [await asyncio.open_connection(*address) for _ in range(2)]
        while len(state.connections) < 2:
            await asyncio.sleep(0.01)
        assert (await _said(server)).startswith(b"HTTP/1.1 503 ")
        assert len(state.connections) == 2
        for _, writer in held:
            writer.close()
        while state.connections:
            await asyncio.sleep(0.01)
        complete = HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
        assert (await _said(server, complete)).startswith(b"HTTP/1.1 200 ")
        server.close()

    asyncio.run(asyncio.wait_for(run(), 60))
