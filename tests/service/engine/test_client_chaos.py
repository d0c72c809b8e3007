"""A real engine that is killed again and again while clients come and go."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
from pathlib import Path

import pytest

from tests.service.engine.test_client import Watch, generate, real, until
from tests.service.test_server_bytes import leaves
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import Generate, Result, Trajectory
from unified_latents.service.engine.seam import result
from unified_latents.service.engine.tickets import Ticket

CLIENTS = 24


def drawn(seed: int) -> Generate:
    """A request of some passes, with snapshots or without."""
    chance = random.Random(seed)
    return generate(
        seed=seed,
        n=chance.randint(1, 3),
        base=Trajectory(chance.randint(2, 30), "dpmpp-2m"),
        snapshot_every=chance.choice([0, 0, 3]),
        timeout=chance.choice([None, 600.0]),
    )


async def kill(engine: EngineClient, watch: Watch, passes: int) -> None:
    """After so many passes of the engine that is there now."""
    await asyncio.wait_for(watch.ready.wait(), 120)
    for _ in range(passes):
        watch.ticked.clear()
        await asyncio.wait_for(watch.ticked.wait(), 120)
    watch.ready.clear()
    pid, deaths = engine.status.pid, len(watch.deaths)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(watch.deaths) > deaths)


@pytest.mark.slow
def test_kills_while_clients_come_and_go_lose_nobody_and_change_no_byte(tiny: Path) -> None:
    """Twice in a round too: after that every request is tried alone."""

    async def run() -> None:
        async with real(tiny) as (engine, watch):
            chance = random.Random(17)
            requests = [drawn(seed) for seed in range(CLIENTS)]
            alone = [await result(engine, each) for each in requests]
            for kills in (1, 2):
                work = [asyncio.ensure_future(result(engine, each)) for each in requests]
                going = [leaves(engine, drawn(100 + i), chance.randint(0, 20)) for i in range(12)]
                leaving = asyncio.gather(*going)
                for _ in range(kills):
                    await kill(engine, watch, chance.randint(1, 8))
                await leaving
                found = await asyncio.gather(*work)
                assert [images(each) for each in found] == [images(each) for each in alone]
                assert engine.status.in_flight == 0
            assert [death.lost for death in watch.deaths] == [0] * 3
            assert [death.quarantined > 0 for death in watch.deaths] == [False, False, True]
            del work, going, leaving
            gc.collect()
            assert not [each for each in gc.get_objects() if type(each) is Ticket]

    asyncio.run(run())


def images(done: Result) -> bytes:
    assert done.images is not None
    return done.images.data
