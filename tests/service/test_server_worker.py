"""Workers in processes of their own, killed, frozen and ended while they work."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.service.conftest import LiveServer
from tests.service.jobs.conftest import Desk, start_store
from unified_latents.service.engine.messages import Generate, Trajectory
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.server import find_server

STEPS = 300
long = pytest.mark.skipif("FAULT_LONG" not in os.environ, reason="make fault-long runs it")


class LiveWorker(LiveServer):
    """`ul-serve worker`."""

    command = "worker"


class Shop:
    """A store, a counter that takes jobs, and workers."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        (folder / "redis").mkdir()
        self._store = start_store(folder / "redis", find_server())
        self.url = f"unix://{folder / 'redis' / 's'}"
        self._tiny = tiny
        self.desk = Desk(self.url, folder, job_slots=0)
        self._environment = {
            "REDIS_URL": self.url,
            "UL_HOME": str(folder),
            "UL_GRACE": "0",
            "UL_JOB_LEASE": "2",
            "UL_JOB_RENEWAL": "0.7",
            "UL_JOB_STALLED": "0.5",
        }
        self.workers: list[LiveWorker] = []

    def hire(self) -> LiveWorker:
        """A worker whose engine is ready."""
        worker = LiveWorker("--model", f"tiny={self._tiny}", "--port", "0", **self._environment)
        self.workers.append(worker)
        worker.wait_for(r"(ready): torch")
        return worker

    async def submit(self, name: str, sampler: str) -> str:
        """A job of a few seconds."""
        base = Trajectory(STEPS, "dpmpp-2m" if sampler == "dpmpp-2m" else "ancestral")
        decode = Trajectory(4, "ancestral")
        message = Generate(0, "tiny", True, 11, 0, 1, 1, base, 1.5, None, decode)
        return (await self.desk.submit(name, Call(message, "png", bare=False))).id

    async def until(self, identity: str, condition: Callable[[Job], bool]) -> Job:
        """The job when it is so."""
        async with asyncio.timeout(120):
            while not condition(job := await self.desk.jobs.queue.get(identity, "")):
                await asyncio.sleep(0.05)
        return job

    async def started(self, name: str, sampler: str) -> str:
        """A job that has done a tenth of its steps."""
        identity = await self.submit(name, sampler)
        await self.until(identity, lambda job: job.progress.done > STEPS // 5)
        return identity

    async def end(self, identity: str) -> Job:
        """The job when it has ended."""
        return await self.until(identity, lambda job: job.state in FINISHED)

    def close(self) -> None:
        """Everybody home."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
            worker.stop()
        self._store.terminate()
        self._store.wait(10)


@pytest.fixture
def shop(tmp_path: Path, tiny: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, tiny)
    yield made
    made.close()


def metric(worker: LiveWorker, name: str) -> float:
    """One of a worker's figures."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", worker.http.get("/metrics").text, re.M)
    return float(found.group(1)) if found else 0.0


def in_shop(shop: Shop, body: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene with the counter open."""

    async def scene() -> None:
        async with shop.desk.open():
            await body()

    asyncio.run(scene())


@pytest.mark.parametrize("sampler", ["dpmpp-2m", pytest.param("ancestral", marks=long)])
def test_what_a_killed_worker_began_another_ends_with_the_same_bytes(
    shop: Shop, sampler: str
) -> None:
    """The parent first, then an engine under its parent; the third run is undisturbed."""

    async def body() -> None:
        first = shop.hire()
        killed = await shop.started("killed", sampler)
        first.process.kill()
        second = await asyncio.to_thread(shop.hire)
        ended = [await shop.end(killed)]
        crashed = await shop.started("crashed", sampler)
        second.engine().kill()
        ended += [await shop.end(crashed), await shop.end(await shop.submit("whole", sampler))]
        assert [job.state for job in ended] == ["succeeded"] * 3
        assert len({job.outcome.sha256 for job in ended if job.outcome}) == 1
        assert [job.attempts for job in ended] == [2, 1, 1]
        assert metric(second, "ul_job_resumed_step_count") == 1
        assert metric(second, "ul_job_resumed_step_sum") > STEPS // 10
        assert second.http.get("/readyz").status_code == 200

    in_shop(shop, body)


@long
def test_a_worker_that_is_told_to_stop_hands_back_and_leaves_in_peace(shop: Shop) -> None:
    async def body() -> None:
        first = shop.hire()
        identity = await shop.started("handed back", "dpmpp-2m")
        status = await asyncio.to_thread(first.stop)
        assert status == 0
        held = await shop.until(identity, lambda job: True)
        assert (held.state, held.attempts) == ("queued", 0)
        await asyncio.to_thread(shop.hire)
        ended = await shop.end(identity)
        assert (ended.state, ended.attempts) == ("succeeded", 1)

    in_shop(shop, body)


@long
def test_a_frozen_worker_cannot_write_what_another_has_ended(shop: Shop) -> None:
    async def body() -> None:
        first = shop.hire()
        identity = await shop.started("frozen", "dpmpp-2m")
        first.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(shop.hire)
        ended = await shop.end(identity)
        assert ended.state == "succeeded"
        assert ended.attempts >= 2
        first.process.send_signal(signal.SIGCONT)
        await shop.until(identity, lambda job: metric(first, "ul_lease_lost_total") > 0)
        after = await shop.end(identity)
        assert (after.outcome, after.finished) == (ended.outcome, ended.finished)

    in_shop(shop, body)


def _is_run_for(attempt: int, job: Job) -> bool:
    return job.state == "running" and job.attempts == attempt


@long
def test_three_dead_workers_make_a_poison_job(shop: Shop) -> None:
    async def body() -> None:
        identity = ""
        for tries in (1, 2, 3):
            worker = await asyncio.to_thread(shop.hire)
            if not identity:
                identity = await shop.submit("poison", "dpmpp-2m")
            await shop.until(identity, partial(_is_run_for, tries))
            worker.process.kill()
        worker = await asyncio.to_thread(shop.hire)
        ended = await shop.end(identity)
        assert (ended.state, ended.attempts) == ("failed", 3)
        assert ended.reason is not None
        assert ended.reason.code == "workers_lost"
        assert metric(worker, 'ul_jobs_quarantined_total{reason="workers_lost"}') == 1

    in_shop(shop, body)


@long
def test_without_a_store_a_worker_is_not_ready(shop: Shop) -> None:
    worker = shop.hire()
    assert worker.http.get("/readyz").status_code == 200
    shop._store.kill()
    answer: Any = worker.http.get("/readyz")
    for _ in range(200):
        if answer.status_code == 503:
            break
        answer = worker.http.get("/readyz")
    assert answer.json()["code"] == "jobs_unavailable"
    assert psutil.pid_exists(worker.process.pid)
