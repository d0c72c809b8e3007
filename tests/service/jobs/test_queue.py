from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.queue import FinishedError, UnknownJobError


def test_fifty_clients_with_one_id_make_one_job(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_slots=0)
        async with here.open() as jobs:
            made = await asyncio.gather(*(here.submit("same") for _ in range(50)))
            assert len({job.id for job in made}) == 1
            assert (await jobs.queue.counts())["queued"] == 1
            assert len((await jobs.queue.page("", 50, None)).jobs) == 1

    run(body)


def test_pages_hold_every_job_once_the_newest_first(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_slots=0)
        async with here.open() as jobs:
            made = [(await here.submit(str(i))).id for i in range(7)]
            seen: list[str] = []
            cursor = None
            while True:
                page = await jobs.queue.page("", 3, cursor)
                seen += [job.id for job in page.jobs]
                if (cursor := page.cursor) is None:
                    break
            assert sorted(seen) == sorted(made)
            times = [(await jobs.queue.get(job, "")).created for job in seen]
            assert times == sorted(times, reverse=True)

    run(body)


def test_a_page_reads_only_the_jobs_of_a_prefix(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_slots=0)
        async with here.open() as jobs:
            made = [(await here.submit(str(i))).id for i in range(5)]
            pages: list[list[str]] = []
            cursor = None
            while not pages or cursor is not None:
                page = await jobs.queue.page("", 2, cursor, made[2])
                pages.append([job.id for job in page.jobs])
                cursor = page.cursor
            assert sorted(pages) == [[], [], [made[2]]]

    run(body)


def test_a_job_is_its_owners(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_slots=0)
        async with here.open() as jobs:
            job = await here.submit("mine")
            for method in (jobs.queue.get, jobs.queue.cancel):
                with pytest.raises(UnknownJobError):
                    await method(job.id, "somebody else")
            assert (await jobs.queue.page("somebody else", 9, None)).jobs == []

    run(body)


def test_the_most_urgent_goes_first(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        writer = desk(job_slots=0)
        async with writer.open():
            order = [
                (await writer.submit(str(i), priority=priority)).id
                for i, priority in enumerate((10, 5, 1, 5))
            ]
        worker = desk(job_slots=1)
        async with worker.open():
            done = [await worker.end(identity) for identity in order]
        ranked = sorted(range(4), key=lambda i: done[i].started or 0)
        assert ranked == [2, 1, 3, 0]

    run(body)


def test_cancelling_what_waits_ends_it(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_slots=0)
        async with here.open() as jobs:
            job = await here.submit("waits")
            assert (await jobs.queue.cancel(job.id, "")).state == "cancelled"
            with pytest.raises(FinishedError):
                await jobs.queue.cancel(job.id, "")
        async with desk(job_slots=1).open() as jobs:
            async with asyncio.timeout(20):
                while (await jobs.queue.counts())["failed"] == 0:
                    await asyncio.sleep(0.02)
            assert (await jobs.queue.get(job.id, "")).state == "cancelled"

    run(body)


def test_an_id_is_free_again_when_its_answer_is_gone(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_answers=0.2)
        async with here.open() as jobs:
            first = await here.end((await here.submit("again")).id)
            assert jobs.queue.expired(first) is None
            while jobs.queue.expired(first) is None:
                await asyncio.sleep(0.05)
            second = await here.submit("again")
            assert second.created > first.created
            assert (await here.end(second.id)).state == "succeeded"

    run(body)


def test_a_queued_job_is_small(run: Callable[..., None], desk: Any, url: str) -> None:
    async def body() -> None:
        here = desk(job_slots=0)
        async with here.open():
            await asyncio.gather(*(here.submit(f"first {i}") for i in range(20)))
            with Redis.from_url(url) as client:
                before = client.info("memory")["used_memory_dataset"]
                for part in range(20):
                    await asyncio.gather(*(here.submit(f"{part}/{i}") for i in range(25)))
                after = client.info("memory")["used_memory_dataset"]
        assert (after - before) / 500 < 2048

    run(body)


def test_a_store_that_is_gone_is_said_so_in_time(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(redis_url="unix:///nowhere/s", job_slots=0)
        async with here.open() as jobs:
            assert not jobs.up
            began = time.monotonic()
            with pytest.raises(StoreDownError):
                await here.submit("lost")
            assert time.monotonic() - began < 3.5

    run(body)
