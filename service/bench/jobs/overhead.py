"""What a job costs beside the engine: queue, worker and stores around one that does nothing, and
around real decoding.

The times are the job's own, from the moment it was queued to the one its end was recorded, less
those in which its engine had it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unified_latents.service.bench.jobs.desk import desk, end, loaded, submit
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import (
    Array,
    Checkpoint,
    Decode,
    Event,
    Generate,
    ModelCard,
    Request,
    Trajectory,
)
from unified_latents.service.engine.seam import result
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.job import Job

SLOTS = 4
SAMPLES = 16
"""Pictures of a real job."""
_ONE_BY_ONE = 100
_AT_ONCE = 16
_PROBE = 10


@dataclass(frozen=True)
class Idle:
    """Jobs on an engine that does nothing."""

    alone: tuple[float, ...]
    """Seconds of each, one after the other."""
    drained: float
    """Jobs a second from a queue that is full, `SLOTS` at once."""


@dataclass(frozen=True)
class Real:
    """One job of real decoding."""

    engine: float
    """Seconds in the engine."""
    outside: float
    """All other seconds."""
    bare: float
    """Seconds of the same call without a job around it: no snapshots either."""


class Timed(EngineClient):
    """An engine that knows how long it had its last request."""

    seconds = 0.0

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """As told, with a clock beside."""
        began = time.perf_counter()
        async with aclosing(super().submit(request)) as events:
            async for event in events:
                self.seconds = time.perf_counter() - began
                yield event


async def idle(url: str, home: Path, count: int) -> Idle:
    """`count` jobs out of a full queue; some before them one by one."""
    async with desk(url, home, FakeEngine(), SLOTS) as jobs:
        ends = [
            await end(jobs, (await submit(jobs, _nothing(seed))).id)
            for seed in range(min(count, _ONE_BY_ONE))
        ]
    async with desk(url, home, FakeEngine(), 0) as jobs:
        names = []
        for first in range(0, count, _AT_ONCE):
            seeds = range(first, min(count, first + _AT_ONCE))
            made = await asyncio.gather(*(submit(jobs, _nothing(seed)) for seed in seeds))
            names += [job.id for job in made]
    async with desk(url, home, FakeEngine(), SLOTS) as jobs:
        drained = _rate([await end(jobs, name) for name in names])
    return Idle(tuple(map(_took, ends)), drained)


async def decoding(
    url: str, home: Path, options: EngineOptions, seconds: float, rounds: int
) -> list[Real]:
    """Jobs of about `seconds` each, and the same calls without jobs, in turn."""
    engine = Timed(options)
    async with desk(url, home, engine, 1) as jobs:
        card = (await loaded(engine)).models[0]
        await result(engine, _decode(card, _PROBE, 0).message)
        await result(engine, _decode(card, _PROBE, 1).message)
        steps = max(1, round(seconds / engine.seconds * _PROBE))
        found = []
        for seed in range(rounds):
            call = _decode(card, steps, seed)
            await result(engine, call.message)
            bare = engine.seconds
            job = await end(jobs, (await submit(jobs, call)).id)
            found.append(Real(engine.seconds, _took(job) - engine.seconds, bare))
    return found


def engine_options(name: str, folder: str, threads: int) -> EngineOptions:
    """An engine with one model."""
    return EngineOptions((Checkpoint(name, folder),), threads=threads)


def _nothing(seed: int) -> Call:
    how = Trajectory(1, "ancestral")
    message = Generate(0, fake_card().name, True, seed, 0, 1, 0, how, 1.0, None, how)
    return Call(message, "png", bare=True)


def _decode(card: ModelCard, steps: int, seed: int) -> Call:
    shape = (SAMPLES, *card.latent_shape)
    z = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    message = Decode(
        id=0,
        model=card.name,
        strict=True,
        seed=seed,
        first=0,
        z=Array(shape, "float32", z.tobytes()),
        kind="z_0",
        decode=Trajectory(steps, "ancestral"),
    )
    return Call(message, "png", bare=False)


def _took(job: Job) -> float:
    return (job.finished or job.created) - job.created


def _rate(jobs: Sequence[Job]) -> float:
    """A second, from the first one begun to the last one ended."""
    began = min(job.started or job.created for job in jobs)
    return len(jobs) / (max(job.finished or 0.0 for job in jobs) - began)
