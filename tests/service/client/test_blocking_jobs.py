"""Jobs by the client, on a real server with its own store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.service.conftest import LiveServer
from unified_latents.service.client import AsyncClient, Client, JobError

REQUEST = {"model": "tiny", "label": "square", "seed": 5}


@pytest.fixture(scope="module")
def ul(live: LiveServer) -> Iterator[Client]:
    with Client(live.url) as client:
        yield client


def test_a_job_gives_what_the_call_gives(ul: Client) -> None:
    seen: list[int] = []
    job = ul.submit("generate", {**REQUEST, "n": 2}, key="once", priority=2)
    assert ul.submit("generate", {**REQUEST, "n": 2}, key="once", priority=2).id == job.id
    done = ul.wait(job, timeout=120, on_progress=lambda job: seen.append(job.done))
    assert (done.state, done.attempts, seen) == ("succeeded", 1, sorted(seen))
    assert ul.result(job) == ul.generate("square", n=2, seed=5, model="tiny")


def test_every_event_comes_once_and_in_order(ul: Client) -> None:
    job = ul.submit("generate", REQUEST)
    events = list(ul.events(job))
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("running", "succeeded")
    done = [event.data["done"] for event in events if event.kind == "progress"]
    assert done == sorted(set(done))
    assert done[-1] == events[-1].data["progress"]["steps"]


def test_a_cancelled_job_is_an_error_to_who_waits(ul: Client) -> None:
    job = ul.submit("generate", {**REQUEST, "steps": {"base": 1000, "decode": 1000}, "n": 8})
    ul.cancel(job)
    with pytest.raises(JobError, match="cancelled"):
        ul.wait(job, timeout=120)


def test_the_other_client_does_the_same(live: LiveServer) -> None:
    async def body() -> None:
        async with AsyncClient(live.url) as client:
            job = await client.submit("generate", REQUEST)
            assert (await client.wait(job, timeout=120)).state == "succeeded"
            last = [event async for event in client.events(job)][-1]
            assert last.kind == "succeeded"
            assert await client.result(job) == await client.generate("square", seed=5, model="tiny")

    asyncio.run(body())
