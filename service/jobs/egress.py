"""Connections to addresses that a client named: only to hosts of the public internet.

A name is resolved once for each connection, every address it has must be public, and the connection
goes to the address that was looked at: a name that changes its answer in between reaches nothing
else. Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Iterable
from urllib.parse import SplitResult, urlsplit

import httpcore
from httpcore import SOCKET_OPTION, AsyncNetworkStream

MAX_URL = 2048
_MAPPED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that a translator turns into the IPv4 address in their last bits (RFC 6052)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenTargetError(Exception):
    """A URL that is not called; the message says why."""


def check_url(url: str, exempt: Collection[str] = ()) -> None:
    """What can be said without asking anybody; `ForbiddenTargetError`. `exempt`: hosts that may
    be anywhere, and without TLS.
    """
    parts = _split(url)
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        raise ForbiddenTargetError("must have no user and no password")
    if not host:
        raise ForbiddenTargetError("must name a host")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in exempt):
        raise ForbiddenTargetError("must begin with https://")
    if host in exempt:
        return
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        raise ForbiddenTargetError("must be on the public internet")
    literal = _literal(host)
    if literal is not None and not is_public(literal):
        raise ForbiddenTargetError("must be on the public internet")


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise ForbiddenTargetError(f"must be a URL of at most {MAX_URL} ASCII characters")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is none
    except ValueError as error:
        raise ForbiddenTargetError(f"must be a URL: {error}") from error
    return parts


def _literal(host: str) -> Address | None:
    """The address that a host is written as, in any of the ways that a resolver reads."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # 0x7f.1 and 2130706433 too
    except (OSError, ValueError):
        return None


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet; wrapped IPv4 counts as what it wraps."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _MAPPED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Connects where it is allowed to, and raises `ForbiddenTargetError` elsewhere."""

    def __init__(self, exempt: Collection[str] = ()) -> None:
        self._exempt = exempt
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """To the first of the host's addresses, all of which must be public."""
        async with asyncio.timeout(timeout):
            address = await self._resolve(host, port)
        return await self._real.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Never."""
        raise ForbiddenTargetError("must be on the public internet")

    async def sleep(self, seconds: float) -> None:
        """Between tries of httpcore's."""
        await self._real.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address") from error
        addresses = [str(entry[4][0]) for entry in found]
        if host not in self._exempt:
            for address in addresses:
                if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                    raise ForbiddenTargetError("must be on the public internet")
        return addresses[0]
