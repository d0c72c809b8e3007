from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import httpcore
import pytest

from unified_latents.service.jobs.egress import (
    ForbiddenTargetError,
    PublicBackend,
    check_url,
    is_public,
)

INSIDE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_that_are_not_the_internets(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenTargetError, match="public internet"):
        check_url(f"https://{host}/hook")


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1", "2002:101:101::"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "example.org",
        "https:///path",
        "https://user@example.org/",
        "https://user:word@example.org/",
        "https://localhost/",
        "https://LOCALHOST:8443/",
        "https://a.localhost/",
        "https://metadata.google.internal/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://example.org:99999/",
        "https://exa mple.org/",
        "https://ex\u00e4mple.org/",
        "https://example.org/" + "x" * 2048,
    ],
)
def test_urls_that_are_not_called(url: str) -> None:
    with pytest.raises(ForbiddenTargetError):
        check_url(url)


def test_urls_that_are() -> None:
    check_url("https://example.org:8443/hook?x=1")
    check_url("http://inside:8080/", exempt={"inside"})
    check_url("https://127.0.0.1/", exempt={"127.0.0.1"})


def _answers(monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[str]:
    """A name server that answers so, one round after the other; what it was asked."""
    asked: list[str] = []
    left = list(rounds)

    def resolve(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.fixture
def listener() -> Any:
    """A port of this machine; nobody may reach it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def _connect(host: str, port: int, exempt: set[str] | None = None) -> None:
    async def run() -> None:
        stream = await PublicBackend(exempt or set()).connect_tcp(host, port, timeout=0.2)
        await stream.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("found", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["169.254.169.254"]])
def test_names_of_this_side_are_refused(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket, found: list[str]
) -> None:
    _answers(monkeypatch, found)
    with pytest.raises(ForbiddenTargetError):
        _connect("rebind.example", listener.getsockname()[1])
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_name_is_asked_for_once_a_connection(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """The second answer, of this machine, is never asked for: the first is connected to."""
    reached: list[str] = []

    async def connect(_: Any, host: str, *rest: Any) -> Any:
        reached.append(host)
        raise httpcore.ConnectError("not from a test")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    asked = _answers(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    with pytest.raises(httpcore.ConnectError):
        _connect("rebind.example", listener.getsockname()[1])
    assert (asked, reached) == (["rebind.example"], ["93.184.216.34"])
    with pytest.raises(ForbiddenTargetError):
        _connect("rebind.example", listener.getsockname()[1])


def test_no_name_and_no_socket_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Callable[..., Any]:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(httpcore.ConnectError):
        _connect("nowhere.example", 443)
    with pytest.raises(ForbiddenTargetError):
        asyncio.run(PublicBackend().connect_unix_socket("/run/x"))


def test_an_exempt_host_may_be_anywhere(listener: socket.socket) -> None:
    _connect("localhost", listener.getsockname()[1], {"localhost"})
