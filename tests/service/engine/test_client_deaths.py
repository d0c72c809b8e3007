"""How the client sees its engine's end, with an engine that has no torch and dies as it is told."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.service.engine.test_client import Watch, generate
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.seam import result
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.engine.tickets import Ticket

HANGS, PARTS = 102, 104
KILLS = 8


def options(fault: str = "none") -> EngineOptions:
    command = (sys.executable, str(Path(__file__).with_name("stub_engine.py")), fault)
    return EngineOptions((), command=command, hang=1.0)


def test_an_engine_without_a_pipe_is_not_ready_although_its_process_lives_on() -> None:
    async def run() -> None:
        watch = Watch()
        engine = EngineClient(options(), watch)
        await engine.start()
        await watch.ready.wait()
        await result(engine, generate())
        pid = engine.status.pid
        work = asyncio.ensure_future(result(engine, generate(label=PARTS)))
        while engine.status.state == "ready":
            await asyncio.sleep(0.001)
        assert pid is not None
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        assert watch.deaths == []
        assert (await work).images is not None
        assert not psutil.pid_exists(pid)
        await engine.stop()

    asyncio.run(run())


@pytest.mark.parametrize("patience", [1.0, 600.0])
def test_an_engine_that_stops_while_it_loads_is_replaced(patience: float) -> None:
    """It has answered once, so that it is not its patience that counts."""

    async def run() -> None:
        watch = Watch()
        engine = EngineClient(replace(options("stops"), patience=patience), watch)
        await engine.start()
        async with asyncio.timeout(120):
            while not watch.deaths:
                await asyncio.sleep(0.01)
        assert watch.deaths[0].reason == "hang"
        assert engine.ready is None
        await engine.stop()

    asyncio.run(run())


def test_three_hundred_clients_that_leave_leave_nothing_behind() -> None:
    """At any event, or before the first; among them some whose time is over at once."""

    async def leave(engine: EngineClient, chance: random.Random) -> None:
        label = chance.choice([0, HANGS])
        timeout = chance.choice([None, 0.001])
        async with aclosing(engine.submit(generate(label=label, timeout=timeout))) as events:
            for _ in range(chance.randint(0, 1)):
                await anext(events)

    async def run() -> None:
        watch, chance = Watch(), random.Random(11)
        engine = EngineClient(replace(options(), hang=600.0, max_pending=1000), watch)
        await engine.start()
        await asyncio.wait_for(watch.ready.wait(), 120)
        await asyncio.gather(*(leave(engine, chance) for _ in range(300)))
        assert engine.status.in_flight == 0
        assert (await result(engine, generate())).images is not None
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is Ticket]
        await engine.stop()

    asyncio.run(run())


def test_deaths_leave_nothing_behind() -> None:
    """After each: one child, as many descriptors and tasks as after the one before."""

    async def run() -> None:
        me, watch = psutil.Process(), Watch()
        others = me.children()  # servers of other tests
        engine = EngineClient(replace(options(), hang=600.0), watch)
        await engine.start()
        held = []
        for _ in range(KILLS):
            await asyncio.wait_for(watch.ready.wait(), 120)
            work = asyncio.ensure_future(result(engine, generate(label=HANGS)))
            await result(engine, generate())
            held.append((len(me.children()), me.num_fds(), len(asyncio.all_tasks())))
            pid = engine.status.pid
            assert pid is not None
            watch.ready.clear()
            os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(watch.ready.wait(), 120)
            assert not psutil.pid_exists(pid)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert len(watch.deaths) == KILLS
        assert held == [held[0]] * KILLS
        await engine.stop()
        assert me.children() == others
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
