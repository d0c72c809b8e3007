"""Frames on a byte stream: four bytes of length (big-endian), then one msgpack message.

A length beyond `MAX_FRAME` is refused before anything is read, so a broken peer cannot make the
other one allocate.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TypeVar

import msgspec

MAX_FRAME = 512 * 2**20
_PREFIX = 4

M = TypeVar("M")


class FrameError(ConnectionError):
    """The peer sent something that is no frame, or no message of the protocol."""


def pack(message: msgspec.Struct) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameError(f"a message of {len(body)} bytes exceeds {MAX_FRAME}")
    return len(body).to_bytes(_PREFIX, "big") + body


def _length(prefix: bytes) -> int:
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes exceeds {MAX_FRAME}")
    return length


def _unpack(body: bytes | bytearray, decoder: msgspec.msgpack.Decoder[M]) -> M:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"not a message of the protocol: {error}") from error


async def read(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[M]) -> M | None:
    """The next message, or None where the stream ends (also in the middle of a frame)."""
    try:
        prefix = await reader.readexactly(_PREFIX)
        return _unpack(await reader.readexactly(_length(prefix)), decoder)
    except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
        return None  # asyncio raises here what a failed write met


def receive(stream: socket.socket, decoder: msgspec.msgpack.Decoder[M]) -> M | None:
    """The next message from a blocking socket, or None where the stream ends."""
    prefix = _receive_exactly(stream, _PREFIX)
    if prefix is None:
        return None
    body = _receive_exactly(stream, _length(bytes(prefix)))
    return None if body is None else _unpack(body, decoder)


def _receive_exactly(stream: socket.socket, size: int) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        try:
            got = stream.recv_into(view)
        except ConnectionResetError:
            return None
        if got == 0:
            return None
        view = view[got:]
    return buffer
