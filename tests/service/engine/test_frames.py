from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from unified_latents.service.engine import frames
from unified_latents.service.engine.messages import Cancel
from unified_latents.service.engine.protocol import Command

DECODER = msgspec.msgpack.Decoder(Command)


def over_a_socket(data: bytes) -> object:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        return frames.receive(theirs, DECODER)


def over_a_stream(data: bytes) -> object:
    async def read() -> object:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await frames.read(reader, DECODER)

    return asyncio.run(read())


BOTH = pytest.mark.parametrize("receive", [over_a_socket, over_a_stream])


@BOTH
def test_a_message_arrives_whole(receive: object) -> None:
    assert callable(receive)
    assert receive(frames.pack(Cancel(7))) == Cancel(7)


@BOTH
@pytest.mark.parametrize("cut", [0, 2, 6])
def test_an_end_inside_a_frame_is_an_end(receive: object, cut: int) -> None:
    assert callable(receive)
    assert receive(frames.pack(Cancel(7))[:cut]) is None


@BOTH
def test_a_length_beyond_the_bound_is_refused_unread(receive: object) -> None:
    assert callable(receive)
    with pytest.raises(frames.FrameError, match="exceeds"):
        receive(b"\xff\xff\xff\xff")


@BOTH
@pytest.mark.parametrize("body", [b"\xc1", msgspec.msgpack.encode({"type": "unknown"}), b"\x01"])
def test_what_is_no_message_breaks_the_protocol(receive: object, body: bytes) -> None:
    assert callable(receive)
    with pytest.raises(frames.FrameError, match="protocol"):
        receive(len(body).to_bytes(4, "big") + body)
