from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from unified_latents.service.http.stream.sse import EventStream, event


def test_events_are_written_as_the_standard_says() -> None:
    assert event("progress", '{"a": 1}') == b'event: progress\ndata: {"a": 1}\n\n'
    assert event("x", "a\nb") == b"event: x\ndata: a\ndata: b\n\n"
    assert event("x", "") == b"event: x\ndata: \n\n"


def test_a_stream_ends_with_its_client() -> None:
    async def run() -> tuple[list[Message], bool]:
        sent: list[Message] = []
        left, closed = asyncio.Event(), asyncio.Event()

        async def frames() -> AsyncGenerator[bytes, None]:
            try:
                yield b"one"
                left.set()
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(ClientDisconnect):
            await EventStream(frames())({"type": "http"}, receive, send)
        return sent, closed.is_set()

    (start, one), closed = asyncio.run(run())
    headers = dict(start["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-store"
    assert b"content-length" not in headers
    assert (one["body"], closed) == (b"one", True)
