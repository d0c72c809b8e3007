"""Same seed, same bytes: what a served request shares its passes with changes nothing.

The real engine behind the real client. Latents, so that not even a last bit is rounded away, and
the images of the same request after them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
from collections.abc import Awaitable
from contextlib import aclosing
from pathlib import Path

import msgspec

from tests.service.engine.test_client import Watch, generate, real
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import (
    Generate,
    Progress,
    Request,
    SamplerName,
    Trajectory,
)
from unified_latents.service.engine.seam import result
from unified_latents.service.engine.telemetry import PRIORITIES

THREE, TWO = Trajectory(3, "dpmpp-2m"), Trajectory(2, "ancestral")
MINE = generate(seed=2026, base=THREE, decode=TWO, guidance=1.7, interval=(-6.0, 3.0))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def digests(engine: EngineClient, request: Generate) -> list[str]:
    """Of each sample: its latent's and its image's together."""
    parts = []
    latents = msgspec.structs.replace(request, decode=None)
    for done in await asyncio.gather(result(engine, latents), result(engine, request)):
        array = done.images or done.latents
        assert array is not None
        size = len(array.data) // array.shape[0]
        parts.append([array.data[i : i + size] for i in range(0, len(array.data), size)])
    return [sha(latent + image) for latent, image in zip(*parts, strict=True)]


def mine(**changes: object) -> Generate:
    return msgspec.structs.replace(MINE, **changes)


def stranger(chance: random.Random) -> Generate:
    """Any other request: its steps, samplers, guidance, class, looks and stages are drawn."""
    samplers: list[SamplerName] = ["ancestral", "ddim", "dpmpp-2m"]
    base, decode = (Trajectory(chance.randint(1, 4), chance.choice(samplers)) for _ in range(2))
    return generate(
        seed=chance.getrandbits(60),
        n=chance.randint(1, 3),
        label=chance.randrange(3),
        guidance=chance.choice([1.0, 1.5, 4.0]),
        base=base,
        decode=chance.choice([None, decode]),
        priority=chance.choice(PRIORITIES),
        previews=chance.randint(0, 2),
        snapshot_every=chance.randint(0, 1),
    )


async def leaves(engine: EngineClient, request: Request, after: int) -> None:
    """A client that goes away in the middle."""
    async with aclosing(engine.submit(request)) as events:
        async for event in events:
            if isinstance(event, Progress) and event.done >= after:
                return


async def among(engine: EngineClient, request: Generate, others: list[Awaitable[object]]) -> str:
    """The first sample's digest, asked for in the middle of the others."""
    half = len(others) // 2
    found = await asyncio.gather(*others[:half], digests(engine, request), *others[half:])
    return found[half][0]  # type: ignore[index, no-any-return]


async def numbers(engine: EngineClient, watch: Watch, chance: random.Random) -> list[str]:
    """As the first of n samples, and as one of a batch of equals."""
    first = [(await digests(engine, mine(n=n)))[0] for n in (1, 2, 4, 7, 16)]
    equals = []
    for k in (1, 2, 4, 8, 15):
        others = [digests(engine, mine(seed=i)) for i in range(k)]
        equals.append(await among(engine, MINE, others))  # type: ignore[arg-type]
    return first + equals


async def crowds(engine: EngineClient, watch: Watch, chance: random.Random) -> list[str]:
    """Among strangers of every class, some of whom leave."""
    found = []
    for i in range(12):
        stay = [digests(engine, stranger(chance)) for _ in range(chance.randint(1, 5))]
        go = [leaves(engine, stranger(chance), chance.randint(0, 3)) for _ in range(3)]
        request = mine(priority=PRIORITIES[i % 3], previews=i % 2, timeout=600.0)
        found.append(await among(engine, request, [*stay, *go]))
    return found


async def deaths(engine: EngineClient, watch: Watch, chance: random.Random) -> list[str]:
    """On an engine that is killed under it, from a snapshot and without one, and on the next."""
    found = []
    for snapshot_every in (0, 1):
        watch.ready.clear()
        watch.ticked.clear()
        request = mine(n=3, snapshot_every=snapshot_every, base=Trajectory(3, "dpmpp-2m"))
        others = [digests(engine, stranger(chance)) for _ in range(4)]
        work = asyncio.ensure_future(among(engine, request, list(others)))
        await watch.ticked.wait()
        assert engine.status.pid is not None
        os.kill(engine.status.pid, signal.SIGKILL)
        found.append(await work)
        found += await digests(engine, MINE)
    assert watch.restarts == 2
    return found


def test_one_digest_for_one_seed(tiny: Path) -> None:
    async def run() -> list[list[str]]:
        async with real(tiny) as (engine, watch):
            chance = random.Random(7)
            return [await scene(engine, watch, chance) for scene in (numbers, crowds, deaths)]

    found = asyncio.run(run())
    assert [len(digests) for digests in found] == [10, 12, 4]
    assert len({digest for scene in found for digest in scene}) == 1
