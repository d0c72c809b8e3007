from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.service.conftest import LiveServer
from unified_latents.service.client import (
    AsyncClient,
    Client,
    ProblemError,
    Retries,
    UnreachableError,
)

QUICK = Retries(attempts=4, first=0.01)


def test_it_gives_what_the_blocking_one_gives(live: LiveServer) -> None:
    async def several() -> list[bytes]:
        async with AsyncClient(live.url) as ul:
            made = await asyncio.gather(
                *(ul.generate(0, seed=seed, model="tiny") for seed in (3, 4))
            )
            latent = await ul.encode(made[0][0].data, model="tiny")
            [again] = await ul.decode(latent, seed=1, model="tiny")
            return [made[0][0].data, made[1][0].data, again.data]

    first, second, again = asyncio.run(several())
    with Client(live.url) as ul:
        assert [first, second] == [
            ul.generate(0, seed=seed, model="tiny")[0].data for seed in (3, 4)
        ]
        assert again == ul.decode(ul.encode(first, model="tiny"), seed=1, model="tiny")[0].data


def test_nobody_there() -> None:
    async def ask() -> None:
        async with AsyncClient("http://127.0.0.1:9", retries=QUICK) as nobody:
            await nobody.models()

    with pytest.raises(UnreachableError):
        asyncio.run(ask())


def test_events_go_on_after_a_broken_connection() -> None:
    asked: list[str | None] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 2:
            raise httpx.ReadError("reset")
        if len(asked) == 3:
            return httpx.Response(503, headers={"retry-after-ms": "1"})
        identity, kind = {1: ("1-0", "running"), 4: ("end", "failed")}[len(asked)]
        text = f"id: {identity}\nevent: {kind}\ndata: {json.dumps({})}\n\n:\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    async def follow() -> list[str]:
        async with AsyncClient(retries=QUICK, transport=httpx.MockTransport(serve)) as client:
            return [event.kind async for event in client.events("job_1")]

    assert asyncio.run(follow()) == ["running", "failed"]
    assert asked == [None, "1-0", "1-0", "1-0"]


def test_events_of_no_job_are_a_problem() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"code": "unknown_job", "detail": "there is no such job"})

    async def follow() -> None:
        transport = httpx.MockTransport(refuse)
        async with AsyncClient(retries=QUICK, transport=transport) as client:
            _ = [event async for event in client.events("job_1")]

    with pytest.raises(ProblemError, match="unknown_job"):
        asyncio.run(follow())
