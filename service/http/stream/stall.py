"""A connection whose client stops reading is ended; its request is cancelled as if it had left."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_ROUNDS = 4
"""A stall is noticed within so much of its length."""


class Connection(H11Protocol):
    """uvicorn's, that waits `stall` seconds for a client to take anything at all, and no longer.

    Whoever reads slowly is left in peace: only a buffer that has not shrunk is a stall.
    """

    def __init__(self, *arguments: Any, stall: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stall = stall
        self._round: asyncio.TimerHandle | None = None
        self._unread = 0
        self._rounds = 0

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
        super().connection_lost(exc)

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
