"""An engine process without torch, for tests of its parent: argv is a fault and the pipe's number.

Labels choose what happens to a request: 101 kills the process, 102 never ends, 103 ends only in a
process that was started with requests waiting for it, 104 closes the pipe and stays.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys

import msgspec

from unified_latents.service.engine import frames
from unified_latents.service.engine.fake import fake_card
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Accepted,
    Array,
    Generate,
    Ready,
    Result,
)
from unified_latents.service.engine.protocol import Command, Failed, Hello, Ping, Pong

DIES, HANGS, WAITS_FOR_NEXT, PARTS = 101, 102, 103, 104


def answer(request: Generate) -> Result:
    pixels = hashlib.shake_256(str(request.seed).encode()).digest(64)
    return Result(request.id, images=Array((1, 1, 8, 8), "uint8", pixels))


def greet(fault: str) -> bytes:
    if fault == "fail":
        return frames.pack(Failed("decoder.safetensors is damaged"))
    if fault == "garbage":
        return b"\x00\x00\x00\x01\xc1"
    protocol = PROTOCOL + (fault == "other-protocol")
    return frames.pack(Ready(protocol, (fake_card("m"),), "reference", "s", "f", "none", "cpu"))


def misbehave(label: int, stream: socket.socket) -> None:
    if label == DIES:
        os._exit(1)
    if label == PARTS:
        stream.shutdown(socket.SHUT_RDWR)
        signal.pause()


def main(fault: str, descriptor: int) -> None:
    stream = socket.socket(fileno=descriptor)
    decoder = msgspec.msgpack.Decoder(Command)
    assert isinstance(frames.receive(stream, decoder), Hello)
    if fault == "stops":
        stream.sendall(frames.pack(Pong()))
        os.kill(os.getpid(), signal.SIGSTOP)
    stream.sendall(greet(fault))
    if fault == "fail":
        return
    seen = 0
    while (command := frames.receive(stream, decoder)) is not None:
        if isinstance(command, Ping):
            stream.sendall(frames.pack(Pong()))
        if not isinstance(command, Generate):
            continue
        seen += 1
        stream.sendall(frames.pack(Accepted(command.id, 1, model=fake_card("m").digest)))
        # A replay keeps its id, so the first request of a later process does not have id 1 … 3.
        first_process = seen == command.id
        if first_process or command.label == DIES:
            misbehave(command.label, stream)
        if command.label != HANGS and not (command.label == WAITS_FOR_NEXT and first_process):
            stream.sendall(frames.pack(answer(command)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
