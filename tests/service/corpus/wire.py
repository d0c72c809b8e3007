"""One hostile request as the bytes of its connection, and what came back over it."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple

CLOSED = 0
"""No answer is owed: the request never ended, or was never HTTP."""
_TIMEOUT = 60


class Case(NamedTuple):
    """What is sent, in pieces; the status of the answer, and the field that it names."""

    pieces: tuple[bytes, ...]
    status: int
    field: str = ""


class Reply(NamedTuple):
    """An answer; status `CLOSED` where the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body of an error of the service's own; empty for the protocol's."""
        ours = self.headers.get("content-type") == "application/problem+json"
        return dict(json.loads(self.body)) if ours else {}


def request(
    target: str,
    content_type: str,
    body: bytes,
    status: int = 422,
    field: str = "",
    *,
    length: int | None = None,
    **headers: str,
) -> Case:
    """A POST with a Content-Length, a lying one if `length` says so; `a_b=` becomes `A-B:`."""
    size = len(body) if length is None else length
    return Case(
        (head(target, content_type, Content_Length=str(size), **headers), body), status, field
    )


def head(target: str, content_type: str, **headers: str) -> bytes:
    """Request line and headers of a POST."""
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def send(address: tuple[str, int], case: Case) -> Reply:
    """All pieces, then whatever the server says until it closes.

    Where no answer is owed our side ends first: the server would rightly wait for the rest.
    """
    with socket.create_connection(address, timeout=_TIMEOUT) as connection:
        try:
            for piece in case.pieces:
                connection.sendall(piece)
            if case.status == CLOSED:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # refused before it was all sent: the answer is already there, or is none
        received = bytearray()
        try:
            while data := connection.recv(2**16):
                received += data
        except ConnectionResetError:
            pass
    return _parse(bytes(received))


def _parse(received: bytes) -> Reply:
    top, _, body = received.partition(b"\r\n\r\n")
    if not top.startswith(b"HTTP/1.1 "):
        return Reply(CLOSED, {}, received)
    lines = top.decode("latin-1").split("\r\n")
    pairs = (line.partition(":")[::2] for line in lines[1:])
    headers = {name.lower(): value.strip() for name, value in pairs}
    length = int(headers.get("content-length", len(body)))
    return Reply(int(lines[0].split()[1]), headers, body[:length])
