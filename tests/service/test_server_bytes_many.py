"""Two hundred requests of every kind, alone and in random crowds: the same bytes, or nearly.

The real engine behind the real client, with clients that leave in every crowd.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.service.engine.test_client import generate, real
from tests.service.test_server_bytes import leaves
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import (
    Array,
    Decode,
    Encode,
    Request,
    Result,
    SamplerName,
    Trajectory,
)
from unified_latents.service.engine.seam import result
from unified_latents.service.engine.telemetry import PRIORITIES

REQUESTS = 200
SAMPLERS: list[SamplerName] = ["ancestral", "ddim", "dpmpp-2m"]
LEVEL = 1
"""Of 255: by how much a pixel of fast mode may differ."""


def trajectory(chance: random.Random) -> Trajectory:
    return Trajectory(chance.randint(1, 6), chance.choice(SAMPLERS))


def drawn(seed: int, *, strict: bool) -> Request:
    """Mostly pictures or latents from labels; some encodings, some decodings."""
    chance = random.Random(seed)
    kind = chance.choices(["generate", "encode", "decode"], [8, 1, 1])[0]
    if kind == "encode":
        image = Array((1, 16, 16), "uint8", chance.randbytes(256))
        return Encode(0, "m", strict, seed, image, "z_0", chance.choice([0, 70]))
    if kind == "decode":
        n = chance.randint(1, 4)
        values = [chance.gauss(0.0, 1.0) for _ in range(n * 64)]
        z = Array((n, 4, 4, 4), "float32", struct.pack(f"<{len(values)}f", *values))
        return Decode(0, "m", strict, seed, chance.randint(0, 3), z, "z_clean", trajectory(chance))
    return generate(
        strict=strict,
        seed=seed,
        first=chance.randint(0, 3),
        n=chance.randint(1, 4),
        label=chance.randrange(3),
        base=trajectory(chance),
        guidance=chance.choice([1.0, 1.0, 1.5, 4.0]),
        interval=chance.choice([None, (-6.0, 3.0)]),
        decode=chance.choice([None, trajectory(chance)]) if strict else trajectory(chance),
    )


def as_asked_in_a_crowd(request: Request, chance: random.Random) -> Request:
    """Another class, a deadline, looks and snapshots: nothing of it is in the bytes."""
    changes: dict[str, Any] = {
        "priority": chance.choice(PRIORITIES),
        "timeout": chance.choice([None, 600.0]),
    }
    if not isinstance(request, Encode):
        changes |= {"previews": chance.randint(0, 2), "snapshot_every": chance.randint(0, 2)}
    return msgspec.structs.replace(request, **changes)


async def crowds(
    engine: EngineClient, requests: Sequence[Request], chance: random.Random
) -> list[Result]:
    """All of them in some order, up to twelve at once beside others that leave."""
    order = list(range(len(requests)))
    chance.shuffle(order)
    found: dict[int, Result] = {}

    async def ask(i: int) -> None:
        found[i] = await result(engine, as_asked_in_a_crowd(requests[i], chance))

    while order:
        now = [order.pop() for _ in range(min(len(order), chance.randint(1, 12)))]
        strict = requests[0].strict
        strangers = (drawn(chance.getrandbits(40), strict=strict) for _ in range(len(now) // 3))
        going = [leaves(engine, each, chance.randint(0, 4)) for each in strangers]
        await asyncio.gather(*map(ask, now), *going)
    return [found[i] for i in range(len(requests))]


async def both(
    engine: EngineClient, *, strict: bool, seed: int
) -> list[tuple[Request, Result, Result]]:
    """Each request, its answer alone and in a crowd."""
    requests = [drawn(10_000 * seed + i, strict=strict) for i in range(REQUESTS)]
    alone = [await result(engine, each) for each in requests]
    together = await crowds(engine, requests, random.Random(seed))
    return list(zip(requests, alone, together, strict=True))


def sha(done: Result) -> str:
    """Of everything in an answer but its number."""
    return hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.replace(done, id=0))).hexdigest()


def values(array: Array | None) -> np.ndarray[Any, Any]:
    assert array is not None
    return np.frombuffer(array.data, array.dtype).astype(np.float64)


def test_two_hundred_requests_have_the_same_bytes_alone_and_in_crowds(tiny: Path) -> None:
    async def run() -> list[tuple[Request, Result, Result]]:
        async with real(tiny) as (engine, _):
            return await both(engine, strict=True, seed=1)

    found = asyncio.run(run())
    differ = [request for request, alone, crowd in found if sha(alone) != sha(crowd)]
    assert differ == []
    assert len({sha(alone) for _, alone, _ in found}) == REQUESTS


def test_in_fast_mode_no_pixel_is_off_by_more_than_one_level(tiny: Path) -> None:
    """Encodings are latents: there a level of 255 is 2/255 of [-1, 1]."""

    async def run() -> list[tuple[Request, Result, Result]]:
        async with real(tiny) as (engine, _):
            return await both(engine, strict=False, seed=2)

    found = asyncio.run(run())
    pixels = [abs(values(a.images) - values(b.images)).max() for _, a, b in found if a.images]
    latents = [abs(values(a.latents) - values(b.latents)).max() for _, a, b in found if a.latents]
    assert len(pixels) + len(latents) == REQUESTS
    assert max(pixels) <= LEVEL
    assert max(latents) <= 2 * LEVEL / 255
