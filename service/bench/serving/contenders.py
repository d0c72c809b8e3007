"""The servers under load: each in a process group of its own, with the same weights and threads."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal

from unified_latents.service.bench.serving.tasks import Picture, Task
from unified_latents.service.engine.spawn import DEFAULTS

BATCH = 16
"""Requests that a rival may put into one batch."""
BATCH_WAIT = 0.02
"""Seconds that a rival waits for a batch to fill."""
START = 180.0
"""Seconds within which a contender must answer."""
_ROOM = "unified_latents.service.bench.serving"
HOST = "127.0.0.1"
_JSON = {"Content-Type": "application/json"}
_PNG = {"Content-Type": "image/png"}

Name = Literal["naive", "litserve", "ray", "ours", "ours-strict"]
RIVALS: dict[Name, str] = {"naive": "naive", "litserve": "lit", "ray": "ray_serve"}


@dataclass(frozen=True)
class Subject:
    """What is served, and with how much of the machine."""

    model: str
    """The name of a shipped model."""
    picture: Picture
    threads: int
    rivals: Path
    """The interpreter in which LitServe and Ray Serve are installed."""


class Live:
    """A contender that answers; `port` on this machine, `picture` what its encoder reads."""

    def __init__(self, name: Name, port: int, pid: int, picture: Picture) -> None:
        self.name, self.port, self.pid = name, port, pid
        self._picture = picture

    @property
    def _ours(self) -> bool:
        return self.name.startswith("ours")

    def send(self, task: Task) -> None:
        """One request, and the whole of its answer."""
        self.files(task)

    def files(self, task: Task) -> list[str]:
        """The base64 files of an answer; RuntimeError where there is none."""
        if not self._ours:
            body = json.dumps(task.rival(self._picture)).encode()
            data: list[str] = self.call("POST", "/work", body, _JSON)["data"]
            return data
        if task.kind == "encode":
            picture = task.picture(self._picture)
            strict = str(self.name == "ours-strict").lower()
            return [self.call("POST", f"/encode?strict={strict}", picture, _PNG)["latent"]]
        body = json.dumps(task.generation(strict=self.name == "ours-strict")).encode()
        return [item["b64"] for item in self.call("POST", "/generate", body, _JSON)["data"]]

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One HTTP exchange, JSON out."""
        return json.loads(self._exchange(method, path, body, headers or {}))

    def text(self, path: str) -> str:
        """The text of a GET."""
        return self._exchange("GET", path, None, {}).decode()

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> bytes:
        link = http.client.HTTPConnection(HOST, self.port)
        try:
            link.request(method, path, body, headers)
            answer = link.getresponse()
            text: bytes = answer.read()
        finally:
            link.close()
        if answer.status != 200:
            raise RuntimeError(f"{self.name}: {answer.status} {text[:500]!r}")
        return text


@contextmanager
def contender(name: Name, subject: Subject) -> Iterator[Live]:
    """A contender from its start to its end; RuntimeError with its log where it does not start."""
    port = _free_port()
    with TemporaryFile() as log:
        child = subprocess.Popen(
            _command(name, subject, port),
            env=_environment(name, subject, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(name, child, port, log)
            yield Live(name, port, child.pid, subject.picture)
        finally:
            _end(child)


def _command(name: Name, subject: Subject, port: int) -> list[str]:
    if name.startswith("ours"):
        model = f"{subject.model}={subject.model}"
        return [sys.executable, "-P", "-m", "unified_latents.service", "up", "--model", model]
    python = sys.executable if name == "naive" else str(subject.rivals)
    module = f"{_ROOM}.{RIVALS[name]}"
    return [python, "-P", "-m", module, subject.model, str(subject.threads), str(port)]


def _environment(name: Name, subject: Subject, port: int) -> dict[str, str]:
    """Every contender's threads sleep while they wait and keep memory; ours say so themselves."""
    threads = str(subject.threads)
    if name.startswith("ours"):
        return {**os.environ, "PORT": str(port), "UL_THREADS": threads}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    return {**os.environ, "OMP_NUM_THREADS": threads, **DEFAULTS, **quiet}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait(name: Name, child: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    path = "/readyz" if name.startswith("ours") else "/health" if name != "ray" else "/"
    until = time.monotonic() + START
    while time.monotonic() < until and child.poll() is None:
        link = http.client.HTTPConnection(HOST, port, timeout=5)
        with suppress(OSError), closing(link):
            link.request("GET", path)
            if link.getresponse().status == 200:
                return
        time.sleep(0.2)
    log.seek(0)
    raise RuntimeError(f"{name} did not start:\n{log.read()[-4000:].decode(errors='replace')}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask once, then end the whole group."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
