"""Models that are replaced while their engine runs: the real engine, and the one in memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest

from tests.service.conftest import save_tiny
from tests.service.engine.test_client import generate, real, until
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Checkpoint,
    Error,
    Event,
    Progress,
    Ready,
    Result,
    Trajectory,
)
from unified_latents.service.engine.protocol import Load, Unload
from unified_latents.service.engine.seam import Engine, EngineError, result
from unified_latents.service.engine.swaps import described, served

LONG = Trajectory(60, "ancestral")
ENDLESS = Trajectory(20_000, "ancestral")


async def picture(engine: Engine, **changes: object) -> tuple[bytes, str]:
    """The bytes, and the digest of the checkpoint that gave them."""
    done = await result(engine, generate(**changes))  # type: ignore[arg-type]
    assert done.images is not None
    return done.images.data, done.model


async def held(engine: EngineClient) -> tuple[asyncio.Task[Result], asyncio.Event]:
    """A long request that has begun."""
    begun = asyncio.Event()

    async def follow() -> Result:
        async for event in engine.submit(generate(base=LONG)):
            if isinstance(event, Progress):
                begun.set()
            if isinstance(event, Result):
                return event
        raise AssertionError("no result")

    task = asyncio.ensure_future(follow())
    await begun.wait()
    return task, begun


def flip_one_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_model_is_replaced_while_the_old_one_finishes(tiny: Path, tmp_path: Path) -> None:
    """Then a damaged one and one of another space are refused, and a new engine has the new one."""
    new = save_tiny(tmp_path / "new", seed=0)
    other = save_tiny(tmp_path / "other", seed=3)
    damaged = shutil.copytree(new, tmp_path / "damaged")
    flip_one_byte(damaged / "base.safetensors")

    async def run() -> None:
        async with real(tiny) as (engine, watch):
            assert engine.ready is not None
            old = await picture(engine, base=LONG)
            assert old[1] == engine.ready.models[0].digest
            task, _ = await held(engine)
            card = await engine.reload("m", str(other), other_space=True)
            assert (await task).model == old[1]
            assert engine.ready.models == (card,)
            replaced = await picture(engine)
            assert replaced[1] == card.digest != old[1]
            for folder, why in ((damaged, "base.safetensors"), (new, "another space")):
                with pytest.raises(EngineError, match=why) as caught:
                    await engine.reload("m", str(folder))
                assert caught.value.code == "load_failed"
                assert await picture(engine) == replaced
            watch.ready.clear()
            assert engine.status.pid is not None
            os.kill(engine.status.pid, signal.SIGKILL)
            await asyncio.wait_for(watch.ready.wait(), 120)
            await until(lambda: engine.status.state == "ready")
            assert await picture(engine) == replaced
            await engine.unload("m")
            assert not engine.ready.models
            with pytest.raises(EngineError, match="no such model"):
                await picture(engine)

    asyncio.run(run())


def test_an_engines_death_does_not_move_a_request_to_another_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    """It fails and says so; without a reload it would have been answered."""
    other = save_tiny(tmp_path / "other", seed=3)

    async def run() -> None:
        async with real(tiny) as (engine, _):
            events: list[Event] = []
            begun = asyncio.Event()

            async def follow() -> None:
                async for event in engine.submit(generate(base=ENDLESS)):
                    events.append(event)
                    if isinstance(event, Progress):
                        begun.set()

            task = asyncio.ensure_future(follow())
            await begun.wait()
            card = await engine.reload("m", str(other), other_space=True)
            pid = engine.status.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(task, 120)
            assert isinstance(events[-1], Error), events[-1]
            assert events[-1].code == "model_replaced"
            assert (await picture(engine))[1] == card.digest
            assert not engine.status.in_flight

    asyncio.run(run())


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_reloaded_model_keeps_its_place(name: str) -> None:
    """The first one is what a request gets that names none, from the next engine too."""
    names = ("a", "b", "c")
    ready = Ready(PROTOCOL, tuple(map(fake_card, names)), "r", "s", "f", "t", "cpu")
    checkpoints = tuple(Checkpoint(each, f"/{each}") for each in names)
    asked = Load(1, Checkpoint(name, "/new"))
    after = described(ready, asked, msgspec.structs.replace(fake_card(name), digest="new"))
    assert tuple(card.name for card in after.models) == names
    assert [card.name for card in after.models if card.digest == "new"] == [name]
    assert [each.name for each in served(checkpoints, asked) if each.path == "/new"] == [name]
    assert tuple(each.name for each in served(checkpoints, asked)) == names
    kept = tuple(each for each in names if each != name)
    assert tuple(c.name for c in described(ready, Unload(2, name), None).models) == kept
    assert tuple(each.name for each in served(checkpoints, Unload(2, name))) == kept
    assert served(checkpoints, Load(3, Checkpoint("d", "/d")))[-1].name == "d"


def test_the_engine_in_memory_swaps_too() -> None:
    async def run() -> None:
        engine = FakeEngine(fake_card("m"))
        await engine.start()
        card = await engine.reload("m", "/elsewhere")
        assert engine.ready is not None
        assert engine.ready.models == (card,)
        assert (await picture(engine))[1] == card.digest
        engine.damage = "decoder.safetensors is damaged"
        with pytest.raises(EngineError, match="decoder"):
            await engine.reload("m", "/damaged")
        await engine.unload("m")
        with pytest.raises(EngineError):
            await engine.unload("m")
        assert not engine.ready.models

    asyncio.run(run())


def test_an_engine_that_dies_while_it_loads_says_so(tiny: Path) -> None:
    async def run() -> None:
        async with real(tiny) as (engine, watch):
            pid = engine.status.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            work = asyncio.ensure_future(engine.reload("m", str(tiny)))
            await asyncio.sleep(0)
            watch.ready.clear()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(EngineError) as caught:
                await work
            assert caught.value.code == "engine_lost"
            await asyncio.wait_for(watch.ready.wait(), 120)
            assert (await picture(engine))[0]

    asyncio.run(run())
