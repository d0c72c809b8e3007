from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unified_latents.service.jobs.connection import patient
from unified_latents.service.jobs.events import Events, follow
from unified_latents.service.jobs.job import Progress


def test_only_the_holder_of_the_lease_writes(run: Callable[..., None], url: str) -> None:
    async def body() -> None:
        client: Any = patient(url)
        events = Events(client, "p", 60)
        await client.set("p:j:lock", "mine")
        assert await events.write("j", "running", "{}", "mine") == "held"
        assert await events.progress("j", Progress(1, 9), "theirs") == "lost"
        assert await events.progress("j", Progress(1, 9), "mine") == "held"
        await client.hset("p:j", "ul:cancel", "1")
        assert await events.progress("j", Progress(2, 9), "mine") == "cancelled"
        assert [event.kind for event in await events.read("j", "0", 0)] == [
            *("running", "progress", "progress")
        ]
        await client.aclose()

    run(body)


def test_progress_never_goes_back(run: Callable[..., None], url: str) -> None:
    async def body() -> None:
        client: Any = patient(url)
        events = Events(client, "p", 60)
        for done in (0, 3, 2, 3, 5):
            await events.progress("j", Progress(done, 9), "")
        told = [event.data for event in await events.read("j", "0", 0)]
        assert [data.split(",")[0] for data in told] == ['{"done":0', '{"done":3', '{"done":5']
        await client.aclose()

    run(body)


def test_who_comes_back_misses_nothing(run: Callable[..., None], url: str) -> None:
    async def body() -> None:
        client: Any = patient(url)
        events = Events(client, "p", 60)
        for done in range(6):
            await events.progress("j", Progress(done, 9), "")
        whole = await events.read("j", "0", 0)
        for cut in range(6):
            assert await events.read("j", whole[cut].id, 0) == whole[cut + 1 :]
        await events.write("j", "end")
        kinds = []
        async for event in follow(events, "j", whole[3].id, 5.0):
            kinds.append(event.kind)
            if not event.kind:
                break
        assert kinds == ["progress", "progress", "end", ""]
        await client.aclose()

    run(body)
