"""Server-sent events as the HTML standard writes them, and the answer that sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEARTBEAT = b": still here\n\n"
EVENTS = "ul.events"
"""Is in the scope of a request whose answer is a stream of events."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: str, identity: str = "") -> bytes:
    """One event; a line end in `data` begins another data line. `identity` is what a client that
    comes back says it has seen.
    """
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    head = f"id: {identity}\n" if identity else ""
    return f"{head}event: {name}\n{lines}\n".encode()


class EventStream(Response):
    """Sends what `frames` yields; ends it at once when the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(None, headers=_HEADERS)
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI answer; `ClientDisconnect` where nobody listens any more."""
        scope[EVENTS] = True
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientDisconnect
            sending.result()
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._frames):
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for frame in self._frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
