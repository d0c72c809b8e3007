"""The seam: one suite for the engine in a process and the one in memory, then the process's own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import (
    Accepted,
    Array,
    Checkpoint,
    Decode,
    Encode,
    Generate,
    Progress,
    Ready,
    Result,
    Trajectory,
)
from unified_latents.service.engine.seam import Death, Engine, EngineError, NotReadyError, result
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.engine.telemetry import Tick

HOW = Trajectory(3, "ancestral")
FOREVER = Trajectory(1000, "ancestral")
STUB_DIES, STUB_HANGS, STUB_WAITS_FOR_NEXT = 101, 102, 103


def generate(model: str = "m", **changes: object) -> Generate:
    fields: dict[str, object] = {
        "model": model, "strict": True, "seed": 1, "first": 0, "n": 1, "label": 0,
        "base": HOW, "guidance": 2.0, "interval": None, "decode": HOW,
    }  # fmt: skip
    return Generate(id=0, **(fields | changes))  # type: ignore[arg-type]


class Watch:
    """Lets a test wait for what the engine does."""

    def __init__(self) -> None:
        self.ready, self.ticked = asyncio.Event(), asyncio.Event()
        self.restarts = 0
        self.deaths: list[Death] = []
        self.keep: Callable[[Tick], None] = lambda tick: None

    def on_ready(self, ready: Ready) -> None:
        self.ready.set()

    def on_tick(self, tick: Tick) -> None:
        self.ticked.set()
        self.keep(tick)

    def on_death(self, death: Death) -> None:
        self.restarts += 1
        self.deaths.append(death)


@asynccontextmanager
async def running(options: EngineOptions) -> AsyncIterator[tuple[EngineClient, Watch]]:
    watch = Watch()
    engine = EngineClient(options, watch)
    await engine.start()
    try:
        await asyncio.wait_for(watch.ready.wait(), 120)
        yield engine, watch
    finally:
        await engine.stop()


@asynccontextmanager
async def real(folder: Path) -> AsyncIterator[tuple[EngineClient, Watch]]:
    """The client on the real engine, with the tiny checkpoint as model m."""
    async with running(EngineOptions((Checkpoint("m", str(folder)),))) as pair:
        yield pair


async def seam(engine: Engine) -> None:
    """What every engine does."""
    assert engine.ready is not None
    assert engine.status.state == "ready"
    (card,) = engine.ready.models
    async with aclosing(engine.submit(generate())) as stream:
        events = [event async for event in stream]
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Result)
    assert {type(event) for event in events[1:-1]} == {Progress}
    assert len({event.id for event in events}) == 1

    images = (await result(engine, generate(n=3))).images
    assert images is not None
    assert images.shape == (3, card.channels, *card.size)
    size = len(images.data) // 3
    together = await asyncio.gather(*(result(engine, generate(first=i)) for i in range(3)))
    for i, alone in enumerate(together):
        assert alone.images is not None
        assert alone.images.data == images.data[i * size : (i + 1) * size]

    latents = (await result(engine, generate(n=2, decode=None))).latents
    assert latents is not None
    assert latents.shape == (2, *card.latent_shape)
    decoded = await result(engine, Decode(0, "m", True, 1, 0, latents, "z_0", HOW))
    assert decoded.images is not None
    assert decoded.images.data == images.data[: 2 * size]

    picture = Array((card.channels, *card.size), "uint8", images.data[:size])
    encoded = await result(engine, Encode(0, "m", True, 1, picture, "z_clean", 4))
    assert encoded.latents is not None
    assert encoded.latents.shape == (1, *card.latent_shape)
    assert encoded.bitrate is not None

    await refusals(engine)


async def refusals(engine: Engine) -> None:
    """An unknown model, and a request after the stop."""
    with pytest.raises(EngineError) as caught:
        await result(engine, generate("other"))
    assert caught.value.code == "unknown_model"
    assert engine.status.in_flight == 0
    await engine.stop()
    with pytest.raises(NotReadyError):
        await result(engine, generate())


async def strict_bytes(engine: Engine) -> None:
    """Latents, so that not even a last bit is rounded away: alone, among four, in a crowd."""

    async def first(n: int) -> bytes:
        latents = (await result(engine, generate(n=n, decode=None))).latents
        assert latents is not None
        return latents.data[: len(latents.data) // n]

    alone = await first(1)
    for n in (2, 3, 4, 7, 16):
        assert await first(n) == alone
    crowd = [
        result(engine, generate(seed=i, n=i, guidance=i / 3, base=Trajectory(2 + i, "ddim")))
        for i in range(2, 7)
    ]
    mixed, *_ = await asyncio.gather(first(2), *crowd)
    assert mixed == alone


async def leave(engine: Engine, watch: Watch) -> None:
    """Leaving a stream early cancels its work: the next request finds nothing else in flight."""
    async with aclosing(engine.submit(generate(n=8, base=FOREVER))) as stream:
        async for event in stream:
            if isinstance(event, Progress):
                break
    assert engine.status.in_flight == 0
    ticks: list[Tick] = []
    watch.keep = ticks.append
    await result(engine, generate(decode=None))
    assert {tick.inflight["base"] for tick in ticks[-2:]} <= {0, 1}


def test_the_engine_in_memory() -> None:
    async def run() -> None:
        engine = FakeEngine(fake_card("m"))
        await engine.start()
        await seam(engine)

    asyncio.run(run())


def test_the_engine_in_a_process(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny) as (engine, watch):
            await strict_bytes(engine)
            await leave(engine, watch)
            await seam(engine)
            assert engine.status.pid is None

    asyncio.run(run())


def test_what_was_in_flight_at_a_death_is_sent_again() -> None:
    async def run() -> None:
        async with stub() as (engine, watch):
            undisturbed = [await result(engine, generate(seed=i)) for i in range(3)]
            waiting = [generate(seed=i, label=STUB_WAITS_FOR_NEXT) for i in range(3)]
            work = asyncio.gather(*(result(engine, request) for request in waiting))
            await until(lambda: engine.status.in_flight == 3)
            _kill(engine)
            again = await work
            assert [r.images for r in again] == [r.images for r in undisturbed]
            assert watch.restarts == engine.status.restarts == 1

    asyncio.run(run())


def test_a_request_under_which_three_engines_die_is_lost_alone() -> None:
    async def run() -> None:
        async with stub() as (engine, watch):
            with pytest.raises(EngineError) as caught:
                await result(engine, generate(label=STUB_DIES))
            assert caught.value.code == "engine_lost"
            assert watch.restarts == 3
            assert (await result(engine, generate())).images is not None

    asyncio.run(run())


def test_requests_beyond_the_limit_are_refused() -> None:
    async def run() -> None:
        async with stub(max_pending=1) as (engine, _):
            first = asyncio.ensure_future(result(engine, generate(label=STUB_HANGS)))
            await until(lambda: engine.status.in_flight == 1)
            with pytest.raises(NotReadyError) as caught:
                await result(engine, generate())
            assert caught.value.code == "busy"
            assert engine.status.step_age >= 0
            first.cancel()

    asyncio.run(run())


def test_an_engine_that_cannot_start_is_not_tried_again() -> None:
    async def run() -> None:
        engine = EngineClient(_stub_options("fail"))
        await engine.start()
        await until(lambda: engine.status.state == "failed" and engine.status.pid is None)
        assert engine.status.detail == "decoder.safetensors is damaged"
        assert engine.status.restarts == 0
        with pytest.raises(NotReadyError):
            await result(engine, generate())
        await engine.stop()

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["other-protocol", "garbage"])
def test_an_engine_that_breaks_the_protocol_is_replaced(fault: str) -> None:
    async def run() -> None:
        watch = Watch()
        engine = EngineClient(_stub_options(fault), watch)
        await engine.start()
        await until(lambda: watch.restarts >= 1)
        assert engine.ready is None
        await engine.stop()

    asyncio.run(run())


def test_stopping_fails_what_is_in_flight_and_ends_the_process() -> None:
    async def run() -> None:
        async with stub() as (engine, _):
            pid = engine.status.pid
            assert pid is not None
            work = asyncio.ensure_future(result(engine, generate(label=STUB_HANGS)))
            await until(lambda: engine.status.in_flight == 1)
            await engine.stop()
            with pytest.raises(EngineError):
                await work
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(run())


def _stub_options(fault: str = "none", max_pending: int = 256) -> EngineOptions:
    command = (sys.executable, str(Path(__file__).with_name("stub_engine.py")), fault)
    return EngineOptions((), command=command, max_pending=max_pending)


@asynccontextmanager
async def stub(max_pending: int = 256) -> AsyncIterator[tuple[EngineClient, Watch]]:
    """The client on an engine process without torch, which starts at once and dies on request."""
    async with running(_stub_options(max_pending=max_pending)) as pair:
        yield pair


def _kill(engine: EngineClient) -> None:
    pid = engine.status.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def until(condition: Callable[[], bool], within: float = 120) -> None:
    """Polls: a death is only seen through the client's own state."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)
