from __future__ import annotations

import asyncio

from tests.service.engine.test_client import generate
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import (
    Accepted,
    Error,
    Event,
    Preview,
    Progress,
    Result,
    Snapshot,
)


async def _events(engine: FakeEngine, **changes: object) -> list[Event]:
    return [event async for event in engine.submit(generate(**changes))]  # type: ignore[arg-type]


async def _engine() -> FakeEngine:
    engine = FakeEngine(fake_card("m"))
    await engine.start()
    return engine


def test_previews_come_for_every_sample_and_look() -> None:
    async def run() -> None:
        events = await _events(await _engine(), n=2, previews=3)
        looks = [event for event in events if isinstance(event, Preview)]
        assert sorted(look.sample for look in looks) == [0, 0, 0, 1, 1, 1]
        assert {look.image.shape for look in looks} == {(1, 8, 8)}
        assert isinstance(events[-1], Result)
        assert [e.stage for e in events if isinstance(e, Progress)] == ["decode"]

    asyncio.run(run())


def test_a_snapshot_is_taken_back_by_the_same_request_only() -> None:
    async def run() -> None:
        engine = await _engine()
        (kept,) = (e for e in await _events(engine, snapshot_every=1) if isinstance(e, Snapshot))
        accepted = [(await _events(engine, resume=kept, seed=seed))[0] for seed in (1, 2)]
        assert [a.done for a in accepted if isinstance(a, Accepted)] == [1, 0]

    asyncio.run(run())


def test_a_held_request_ends_at_its_deadline_and_is_not_a_cancel() -> None:
    async def run() -> None:
        engine = await _engine()
        with engine.hold():
            last = (await _events(engine, timeout=0.0, priority="high"))[-1]
        assert isinstance(last, Error)
        assert last.code == "deadline_exceeded"
        assert (engine.cancelled, engine.in_flight) == ([], set())
        assert engine.requests[0].priority == "high"

    asyncio.run(run())
