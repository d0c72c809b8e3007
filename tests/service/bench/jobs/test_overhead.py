from __future__ import annotations

import asyncio
from pathlib import Path

from unified_latents.service.bench.jobs import overhead
from unified_latents.service.bench.jobs.desk import store


def test_jobs_on_an_engine_that_does_nothing(tmp_path: Path) -> None:
    async def body() -> overhead.Idle:
        async with store("machine") as url:
            return await overhead.idle(url, tmp_path, 20)

    found = asyncio.run(body())
    assert len(found.alone) == 20
    assert min(found.alone) >= 0
    assert found.drained > 0


def test_real_decoding_beside_the_same_call_without_a_job(tiny: Path, tmp_path: Path) -> None:
    async def body() -> list[overhead.Real]:
        options = overhead.engine_options("tiny", str(tiny), 1)
        async with store("machine") as url:
            return await overhead.decoding(url, tmp_path, options, 0.1, 2)

    found = asyncio.run(body())
    assert len(found) == 2
    assert all(each.engine > 0 and each.bare > 0 for each in found)
    assert len(list((tmp_path / "objects" / "answers").iterdir())) == 2
