"""A real engine that is killed, stopped, and made to raise, with six requests in flight."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.service.engine.test_client import FOREVER, generate, running, stub, until
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import Checkpoint, Result, Trajectory
from unified_latents.service.engine.seam import Death, EngineError, result
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.engine.telemetry import Tick

POISON = 666
REQUESTS = [generate(seed=i, base=Trajectory(12, "ancestral")) for i in range(6)]


def options(tiny: Path, folder: Path) -> EngineOptions:
    command = (sys.executable, str(Path(__file__).with_name("faulty_engine.py")), str(folder))
    return EngineOptions((Checkpoint("m", str(tiny)),), command=command, hang=2.0)


async def outcomes(engine: EngineClient, extra: int | None = None) -> list[Result | BaseException]:
    seeds = REQUESTS if extra is None else [*REQUESTS[:3], generate(seed=extra), *REQUESTS[3:]]
    return await asyncio.gather(*(result(engine, r) for r in seeds), return_exceptions=True)


def images(found: list[Result | BaseException]) -> list[bytes]:
    return [r.images.data for r in found if isinstance(r, Result) and r.images is not None]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        *(("raise", None), ("memory", None), ("slow", None)),
        *(("exit", "exit"), ("kill", "exit"), ("stop", "hang")),
    ],
)
def test_six_requests_are_answered_with_the_bytes_of_an_undisturbed_run(
    fault: str, reason: str | None, tiny: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with running(options(tiny, tmp_path)) as (engine, watch):
            undisturbed = images(await outcomes(engine))
            (tmp_path / "fault").write_text(fault)
            assert images(await outcomes(engine)) == undisturbed
            assert not (tmp_path / "fault").exists()
            assert [death.reason for death in watch.deaths] == ([reason] if reason else [])
            assert len(undisturbed) == len(REQUESTS)

    asyncio.run(run())


def test_a_row_that_is_not_finite_fails_alone(tiny: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(options(tiny, tmp_path)) as (engine, watch):
            undisturbed = images(await outcomes(engine))
            (tmp_path / "fault").write_text("nan")
            found = await outcomes(engine)
            (lost,) = (i for i, each in enumerate(found) if not isinstance(each, Result))
            assert images(found) == undisturbed[:lost] + undisturbed[lost + 1 :]
            error = found[lost]
            assert isinstance(error, EngineError)
            assert (error.code, watch.deaths) == ("nonfinite", [])

    asyncio.run(run())


def test_whoever_has_left_is_in_no_pass_after_the_one_under_way(tiny: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(replace(options(tiny, tmp_path), hang=600.0)) as (engine, watch):
            ticks: list[Tick] = []
            watch.keep = ticks.append
            (tmp_path / "fault").write_text("gate")
            work = asyncio.ensure_future(result(engine, generate(n=4, base=FOREVER)))
            await until(lambda: not (tmp_path / "fault").exists())
            work.cancel()
            await until(lambda: engine.status.in_flight == 0)
            after = asyncio.ensure_future(result(engine, generate()))
            await until(lambda: engine.status.in_flight == 1)
            (tmp_path / "open").touch()
            await after
            assert [tick.samples for tick in ticks] == [4, *[1] * 6]

    asyncio.run(run())


def test_a_pass_that_never_ends_is_found_although_its_client_has_left(
    tiny: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with running(options(tiny, tmp_path)) as (engine, watch):
            (tmp_path / "fault").write_text("sleep")
            work = asyncio.ensure_future(result(engine, generate(n=4)))
            async with asyncio.timeout(120):
                while (tmp_path / "fault").exists():
                    await asyncio.sleep(0.01)
                work.cancel()
                while not watch.deaths:
                    await asyncio.sleep(0.01)
                    assert engine.status.in_flight == 0 or not work.done()
            assert watch.deaths == [Death("hang", 0, 0)]
            assert (await result(engine, generate())).images is not None

    asyncio.run(run())


def test_a_poison_request_fails_alone_and_leaves_no_process(tiny: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(options(tiny, tmp_path)) as (engine, watch):
            undisturbed = images(await outcomes(engine))
            found = await outcomes(engine, extra=POISON)
            assert images(found) == undisturbed
            (error,) = (f for f in found if not isinstance(f, Result))
            assert isinstance(error, EngineError)
            assert error.code == "engine_lost"
            assert [death.lost for death in watch.deaths] == [0, 0, 1]
            assert [death.quarantined for death in watch.deaths] == [0, 7, 0]
            assert len(_engines()) == 1
        assert _engines() == []

    asyncio.run(run())


def test_an_engine_that_dies_with_unread_messages_is_replaced() -> None:
    """Its end of the pipe then resets the connection instead of closing it."""

    async def run() -> None:
        async with stub() as (engine, watch):
            pid = engine.status.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            work = [asyncio.ensure_future(result(engine, generate(seed=i))) for i in range(3)]
            await until(lambda: engine.status.in_flight == 3)
            os.kill(pid, signal.SIGKILL)
            assert all(r.images is not None for r in await asyncio.gather(*work))
            assert watch.restarts == 1

    asyncio.run(run())


def _engines() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if any("faulty_engine" in a for a in child.cmdline())]
