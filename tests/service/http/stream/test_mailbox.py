from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from unified_latents.service.engine.messages import (
    Accepted,
    Array,
    Error,
    Event,
    Preview,
    Progress,
    Result,
)
from unified_latents.service.http.stream.mailbox import Mailbox, follow


def _preview(sample: int, shade: int) -> Preview:
    return Preview(1, sample, Array((1, 1, 1), "uint8", bytes([shade])))


def test_the_newest_of_each_kind_is_kept_and_the_end_comes_last() -> None:
    async def run() -> list[Event]:
        box = Mailbox()
        box.put(Accepted(1, 9))
        for i in range(1000):
            box.put(Progress(1, i, 1000))
            box.put(_preview(i % 2, i % 256))
        box.put(Result(1))
        return [await box.get() for _ in range(len(box))]

    accepted, first, progress, second, end = asyncio.run(run())
    assert (accepted, end) == (Accepted(1, 9), Result(1))
    assert progress == Progress(1, 999, 1000)
    assert (first, second) == (_preview(0, 998 % 256), _preview(1, 999 % 256))


async def _collect(events: AsyncGenerator[Event, None], heartbeat: float = 60) -> list[Any]:
    return [event async for event in follow(Accepted(1, 1), events, heartbeat)]


def test_following_ends_with_the_end() -> None:
    async def events() -> AsyncGenerator[Event, None]:
        yield Progress(1, 1, 1)
        yield Result(1)

    assert asyncio.run(_collect(events())) == [Accepted(1, 1), Progress(1, 1, 1), Result(1)]


def test_silence_is_a_heartbeat() -> None:
    async def run() -> list[Any]:
        go = asyncio.Event()

        async def events() -> AsyncGenerator[Event, None]:
            await go.wait()
            yield Result(1)

        told: list[Any] = []
        async for event in follow(Accepted(1, 1), events(), 0.01):
            told.append(event)
            if told.count(None) == 2:
                go.set()
        return told

    told = asyncio.run(run())
    assert told[:3] == [Accepted(1, 1), None, None]
    assert told[-1] == Result(1)


def test_a_source_that_fails_or_just_stops_has_an_end_too() -> None:
    async def failing() -> AsyncGenerator[Event, None]:
        yield Progress(1, 1, 1)
        raise RuntimeError("no")

    async def stopping() -> AsyncGenerator[Event, None]:
        yield Progress(1, 1, 1)

    ends = [asyncio.run(_collect(source()))[-1] for source in (failing, stopping)]
    assert [end.code for end in ends if isinstance(end, Error)] == ["engine_error", "engine_lost"]


def test_leaving_closes_the_source() -> None:
    async def run() -> bool:
        closed = asyncio.Event()

        async def events() -> AsyncGenerator[Event, None]:
            try:
                yield Progress(1, 1, 2)
                await asyncio.Event().wait()
            finally:
                closed.set()

        told = follow(Accepted(1, 1), events(), 60)
        while not isinstance(await anext(told), Progress):
            pass
        await told.aclose()
        return closed.is_set()

    assert asyncio.run(run())
