"""Workers in processes of their own on a store of their own, and what they told of a job.

With `FAULT_LONG` in the environment leases are the service's defaults, else of two seconds.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from tests.service.conftest import LiveServer
from tests.service.jobs.conftest import QUICK, Desk, start_store
from unified_latents.service.engine.messages import Array, Decode, Generate, SamplerName, Trajectory
from unified_latents.service.jobs.attempt import state_of
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.events import Event
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.objects import MissingObjectError
from unified_latents.service.settings import Settings

LONG = "FAULT_LONG" in os.environ
LONG_LIMIT = 1800
"""Seconds that one of the long tests may take."""
long = pytest.mark.skipif(not LONG, reason="make fault-long runs it")

STEPS, SAMPLES = 100, 64
EVERY = 10 * SAMPLES
"""Sample steps from one snapshot to the next."""


class Terms(NamedTuple):
    """Seconds."""

    lease: float
    renewal: float
    stalled: float


def terms() -> Terms:
    """Those of this run."""
    if LONG:
        plain = Settings()
        return Terms(plain.job_lease, plain.job_renewal, plain.job_stalled)
    return Terms(QUICK["job_lease"], QUICK["job_renewal"], QUICK["job_stalled"])


class Start(NamedTuple):
    """A time that a job was begun or taken up."""

    when: float
    attempt: int
    resumed_at: int
    told: int
    """Sample steps that its client had been told of."""


class LiveWorker(LiveServer):
    """`ul-serve worker`."""

    command = "worker"

    def metric(self, name: str) -> float:
        """One of its figures."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.http.get("/metrics").text, re.M)
        return float(found.group(1)) if found else 0.0


def calls(kind: str, sampler: SamplerName) -> Call:
    """Some seconds of work: most of it in one stage, by one sampler."""
    how, few = Trajectory(STEPS, sampler), Trajectory(2, "ancestral")
    if kind == "generate":
        message = Generate(0, "tiny", True, 11, 0, SAMPLES, 1, how, 1.5, None, few)
        return Call(message, "png", bare=False)
    z = Array((SAMPLES, 4, 4, 4), "float32", b"\0\0\x80\x3e" * SAMPLES * 64)
    return Call(Decode(0, "tiny", True, 11, 0, z, "z_0", how), "png", bare=False)


class Shop:
    """A store, a counter that takes jobs, and workers."""

    def __init__(self, folder: Path, tiny: Path, program: str) -> None:
        (folder / "redis").mkdir()
        self.store: subprocess.Popen[bytes] = start_store(folder / "redis", program)
        self.url = f"unix://{folder / 'redis' / 's'}"
        self.terms = terms()
        self._tiny = tiny
        said = {f"job_{name}": value for name, value in self.terms._asdict().items()}
        self.desk = Desk(self.url, folder, job_slots=0, **said)
        self.environment = {
            "REDIS_URL": self.url,
            "UL_HOME": str(folder),
            "UL_GRACE": "0",
            "UL_HANG": "3600",  # an engine may be held up for as long as a test wants
            **{f"UL_{name.upper()}": str(value) for name, value in said.items()},
        }
        self.workers: list[LiveWorker] = []

    def hire(self) -> LiveWorker:
        """A worker whose engine is ready."""
        worker = LiveWorker("--model", f"tiny={self._tiny}", "--port", "0", **self.environment)
        self.workers.append(worker)
        worker.wait_for(r"(ready): torch")
        return worker

    async def submit(self, name: str, kind: str, sampler: SamplerName) -> str:
        """A job of a few seconds."""
        return (await self.desk.submit(name, calls(kind, sampler))).id

    async def until(self, identity: str, condition: Callable[[Job], bool]) -> Job:
        """The job when it is so."""
        async with asyncio.timeout(LONG_LIMIT if LONG else 120):
            while not condition(job := await self.desk.jobs.queue.get(identity, "")):
                await asyncio.sleep(0.05)
        return job

    async def started(self, name: str, kind: str, sampler: SamplerName) -> str:
        """A job that has done a fifth of its steps, and more than one interval's."""
        identity = await self.submit(name, kind, sampler)
        await self.until(identity, lambda job: job.progress.done > STEPS * SAMPLES // 5)
        return identity

    async def end(self, identity: str) -> Job:
        """The job when it has ended."""
        return await self.until(identity, lambda job: job.state in FINISHED)

    async def story(self, identity: str, after: str = "0") -> list[Event]:
        """All that its client was told, after an event."""
        told: list[Event] = []
        while found := await self.desk.jobs.events.read(
            identity, told[-1].id if told else after, 0
        ):
            told += found
        return told

    async def starts(self, identity: str) -> list[Start]:
        """When it was begun, and from where."""
        found, done = list[Start](), 0
        for event in await self.story(identity):
            data = msgspec.json.decode(event.data)
            if event.kind == "progress":
                done = data["done"]
            if event.kind == "running":
                when = int(event.id.partition("-")[0]) / 1000
                found.append(Start(when, data["attempt"], data["resumed_at"], done))
        return found

    async def left_behind(self, identity: str) -> list[str]:
        """What should not be there once a job has ended."""
        client, name = self.desk.jobs.queue.client, f"ul:jobs:{identity}"
        found = ["lease"] if await client.exists(f"{name}:lock") else []
        if identity in await client.lrange("ul:jobs:active", 0, -1):
            found.append("place")
        try:
            await self.desk.jobs.objects.read(state_of(identity))
        except MissingObjectError:
            return found
        return [*found, "snapshot"]

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """A scene with the counter open."""

        async def scene() -> None:
            async with self.desk.open():
                await body()

        asyncio.run(scene())

    def close(self) -> None:
        """Everybody home."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
            worker.stop()
        self.store.terminate()
        self.store.wait(10)
