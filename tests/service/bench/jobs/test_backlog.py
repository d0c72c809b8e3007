from __future__ import annotations

import asyncio
import math
from pathlib import Path

from unified_latents.service.bench.jobs import backlog
from unified_latents.service.bench.jobs.desk import store

JOBS = 200
PART = JOBS // 10


def test_a_queue_is_filled_paged_through_and_begun_with(tiny: Path, tmp_path: Path) -> None:
    async def body() -> backlog.Backlog:
        async with store("machine") as url:
            return await backlog.measure(url, tmp_path, "tiny", str(tiny), 1, JOBS)

    found = asyncio.run(body())
    urgent = len(backlog.URGENT)
    assert len(set(found.submitted)) == len(found.submitted) == JOBS + urgent
    assert (found.repeated, found.missing) == (0, 0)
    assert sorted(found.listed) == sorted(found.submitted)
    last = PART + urgent
    assert found.listed[:last] == found.submitted[: -last - 1 : -1]
    assert found.listed[-PART:] == found.submitted[PART - 1 :: -1]
    assert found.order[:urgent] == [JOBS + 2, JOBS + 1, JOBS]
    assert found.taken == found.order
    assert 0 < found.memory < 2048
    assert found.crowd[math.inf] == JOBS - 2 * PART
    assert found.alone[math.inf] == PART
    assert found.pages[math.inf] == -(-len(found.listed) // backlog.PAGE)


def test_what_pages_lose_or_give_twice_is_counted() -> None:
    found = backlog.Backlog(submitted=["a", "b", "c"], listed=["c", "c", "a"])
    assert (found.repeated, found.missing) == (1, 1)
