"""Connections that would stay for ever: of clients that stop reading, or never finish a request.

They are ended, and their request is cancelled as if they had left. There are at most so many.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from unified_latents.service.http.stream.sse import EVENTS, HEARTBEAT

_ROUNDS = 4
"""A stall is noticed within so much of its length."""
_GLANCES = 0.001, 0.1
"""Seconds between looks at whether a client has left that sends nothing more: at first, at last."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nretry-after-ms: 1000\r\n"
    b"x-should-retry: true\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class Connection(H11Protocol):
    """uvicorn's, that waits `stall` seconds for a client to take anything at all, and no longer.

    Whoever reads slowly is left in peace: only a buffer that has not shrunk is a stall. A request's
    head must be there within `read_timeout` seconds, and its body may not pause for longer; while
    an answer is being made or written, nothing is awaited. Beyond `limit` connections, one more
    is told to come back.

    A client may end its side after a request and still wait for the answer. One that has left ends
    its side too, but resets the connection when something is sent to it: so something is sent.
    """

    def __init__(
        self, *arguments: Any, stall: float, read_timeout: float, limit: int, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._stall = stall
        self._read_timeout = read_timeout
        self._limit = limit
        self._round: asyncio.TimerHandle | None = None
        self._unread = 0
        self._rounds = 0
        self._patience: asyncio.TimerHandle | None = None
        self._in_head = False
        self._ended = False
        self._glance: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        stream = cast(asyncio.Transport, transport)
        if len(self.connections) >= self._limit:
            self.transport = stream
            stream.write(_FULL)
            stream.close()
            return
        super().connection_made(stream)
        self._await()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of several."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._await()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client's side has ended; whether ours stays open, to answer what was asked."""
        self._ended = True
        if not self._owed or not self._probe():
            return False
        self._look_after(_GLANCES[0])
        return True

    def on_response_complete(self) -> None:
        """The client may ask for something else, or has yet to finish what it sent."""
        super().on_response_complete()
        self._await()
        if self._ended and not self._owed:
            self.transport.close()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        super().pause_writing()
        self._begin()

    def resume_writing(self) -> None:
        """There is room again."""
        self._end()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._end()
        self._await_nothing()
        if self._glance is not None:
            self._glance.cancel()
        super().connection_lost(exc)

    @property
    def _owed(self) -> bool:
        """Whether a whole request waits for the rest of its answer."""
        whole = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)
        cycle: RequestResponseCycle | None = self.cycle  # until something is asked, there is none
        return whole and cycle is not None and not cycle.response_complete

    def _probe(self) -> bool:
        """Send what every client ignores; False where there is nothing of the kind.

        A 100 may precede any answer, but not to HTTP/1.0 (RFC 9110, 15.2); a comment, any event.
        """
        if not self.cycle.response_started:
            if self.conn.their_http_version != b"1.1":
                return False
            event = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.transport.write(self.conn.send(event))
        elif EVENTS in self.cycle.scope:
            self.transport.write(self.conn.send(h11.Data(data=HEARTBEAT)))
        return True

    def _look_after(self, seconds: float) -> None:
        self._glance = self.loop.call_later(seconds, self._glance_at, seconds)

    def _glance_at(self, waited: float) -> None:
        """The event loop watches no socket that has ended, so its errors are asked for."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._look_after(min(2 * waited, _GLANCES[1]))

    def _await(self) -> None:
        """What is owed now: all of a head in one time, more of a body, or nothing."""
        state, in_head = self.conn.their_state, self._in_head
        if state is h11.IDLE and in_head:
            return
        self._await_nothing()
        if state not in (h11.IDLE, h11.SEND_BODY) or self not in self.connections:
            return
        self._in_head = state is h11.IDLE
        self._patience = self.loop.call_later(self._read_timeout, self._give_up)

    def _await_nothing(self) -> None:
        self._in_head = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        in_head, cycle = self._in_head, self.cycle
        self._await_nothing()
        answering = not in_head and cycle.response_started and not cycle.response_complete
        paused = not in_head and (self.flow.read_paused or cycle.waiting_for_100_continue)
        if answering or paused:
            self._await()
        else:
            self.transport.abort()

    def _begin(self) -> None:
        self._rounds, self._unread = 0, self.transport.get_write_buffer_size()
        self._watch()

    def _watch(self) -> None:
        self._round = self.loop.call_later(self._stall / _ROUNDS, self._look)

    def _look(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._rounds = self._rounds + 1 if unread >= self._unread else 0
        self._unread = unread
        if self._rounds >= _ROUNDS:
            self.transport.abort()
        else:
            self._watch()

    def _end(self) -> None:
        if self._round is not None:
            self._round.cancel()
            self._round = None
