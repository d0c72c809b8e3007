"""What an attempt tells of itself while its stores fail."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from unified_latents.service.engine.messages import Snapshot
from unified_latents.service.jobs.attempt import Attempt, Bench
from unified_latents.service.jobs.job import Job, Progress, Spec
from unified_latents.service.jobs.objects import ObjectsDownError

JOB = Job("job_1", Spec("generate", "", "m"), "running", 5, Progress(), created=0.0, since=0.0)


class Stores:
    """A bucket whose first two writes fail, and a queue that takes note of what it is told."""

    def __init__(self) -> None:
        self.story: list[str] = []

    async def held(self, *_: object) -> str:
        return "held"

    async def progress(self, _: object, progress: Progress, __: object) -> str:
        self.story.append(f"told {progress.done}")
        return "held"

    async def write(self, *_: object) -> None:
        if len(self.story) < 2:
            self.story.append("failed")
            raise ObjectsDownError("gone")
        self.story.append("kept")


def test_steps_are_not_told_before_their_snapshot_is_kept() -> None:
    async def talk() -> list[str]:
        stores = Stores()
        bench = Bench(*cast("Any", (None, stores, stores, None, None)))
        attempt = Attempt(bench, JOB, "token")
        attempt._snapshot = Snapshot(1, 8, (), "", "", "")
        reporting = asyncio.create_task(attempt._report())
        for done in range(8, 100):
            attempt._advance(Progress(done, 100, "base", None))
            await asyncio.sleep(0.05)
            if len(stores.story) == 4:
                break
        reporting.cancel()
        return [each.split()[0] for each in stores.story]

    assert asyncio.run(talk()) == ["failed", "failed", "kept", "told"]
