"""The seam: one suite for the engine in a process and the one in memory, then the process's own."""

from __future__ import annotations

import asyncio
import os
import signal
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
    Tick,
    Trajectory,
)
from unified_latents.service.engine.seam import Engine, EngineError, NotReadyError, result
from unified_latents.service.engine.spawn import EngineOptions

HOW = Trajectory(3, "ancestral")
FOREVER = Trajectory(1000, "ancestral")


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

    def on_ready(self, ready: Ready) -> None:
        self.ready.set()

    def on_tick(self, tick: Tick) -> None:
        self.ticked.set()

    def on_restart(self) -> None:
        self.restarts += 1


@asynccontextmanager
async def real(folder: Path, **options: int) -> AsyncIterator[tuple[EngineClient, Watch]]:
    watch = Watch()
    engine = EngineClient(EngineOptions((Checkpoint("m", str(folder)),), **options), watch)  # type: ignore[arg-type]
    await engine.start()
    try:
        await asyncio.wait_for(watch.ready.wait(), 120)
        yield engine, watch
    finally:
        await engine.stop()


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


def test_the_engine_in_memory() -> None:
    async def run() -> None:
        engine = FakeEngine(fake_card("m"))
        await engine.start()
        await seam(engine)

    asyncio.run(run())


def test_the_engine_in_a_process(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny) as (engine, _):
            await strict_bytes(engine)
            await seam(engine)
            assert engine.status.pid is None

    asyncio.run(run())


def test_what_was_in_flight_at_a_kill_is_answered_with_the_same_bytes(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny) as (engine, watch):
            requests = [
                generate(seed=i, n=2, base=Trajectory(60, "ancestral"), decode=None)
                for i in range(6)
            ]
            undisturbed = [await result(engine, request) for request in requests]
            watch.ticked.clear()
            work = asyncio.gather(*(result(engine, request) for request in requests))
            await watch.ticked.wait()
            _kill(engine)
            again = await work
            assert [r.latents for r in again] == [r.latents for r in undisturbed]
            assert watch.restarts == 1
            assert engine.status.restarts == 1

    asyncio.run(run())


def test_a_request_under_which_three_engines_die_is_lost(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny) as (engine, watch):
            lost = asyncio.ensure_future(result(engine, generate(base=FOREVER)))
            for deaths in range(1, 4):
                watch.ticked.clear()
                await asyncio.wait_for(watch.ticked.wait(), 120)
                _kill(engine)
                await _until(lambda deaths=deaths: watch.restarts == deaths)  # type: ignore[misc]
            with pytest.raises(EngineError) as caught:
                await lost
            assert caught.value.code == "engine_lost"
            assert (await result(engine, generate())).images is not None

    asyncio.run(run())


def test_leaving_the_stream_cancels_the_work(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny) as (engine, watch):
            async with aclosing(engine.submit(generate(n=8, base=FOREVER))) as stream:
                async for event in stream:
                    if isinstance(event, Progress):
                        break
            assert engine.status.in_flight == 0
            ticks: list[Tick] = []
            watch.on_tick = ticks.append  # type: ignore[method-assign]
            await result(engine, generate(decode=None))
            assert {tick.inflight["base"] for tick in ticks[-2:]} <= {0, 1}

    asyncio.run(run())


def test_requests_beyond_the_limit_are_refused(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny, max_pending=1) as (engine, watch):
            first = asyncio.ensure_future(result(engine, generate(base=FOREVER)))
            await watch.ticked.wait()
            with pytest.raises(NotReadyError) as caught:
                await result(engine, generate())
            assert caught.value.code == "busy"
            first.cancel()

    asyncio.run(run())


def test_a_damaged_checkpoint_is_named_and_not_tried_again(tiny: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = bytearray((damaged / "decoder.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "decoder.safetensors").write_bytes(weights)

    async def run() -> None:
        engine = EngineClient(EngineOptions((Checkpoint("m", str(damaged)),)))
        await engine.start()
        await _until(lambda: engine.status.state == "failed" and engine.status.pid is None)
        assert "decoder.safetensors" in engine.status.detail
        assert engine.status.restarts == 0
        await engine.stop()

    asyncio.run(run())


def _kill(engine: EngineClient) -> None:
    pid = engine.status.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def _until(condition: Callable[[], bool], within: float = 120) -> None:
    """Polls: a death is only seen through the client's own state."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)
