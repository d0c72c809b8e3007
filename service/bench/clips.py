"""`ul-serve bench-clips`: what an engine holds in memory while clips get longer.

Every length has an engine of its own, which has loaded its model and reproduced its recorded run
before the kernel's mark of the most that it held is set back (Linux).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unified_latents.service.bench.jobs.desk import loaded
from unified_latents.service.bench.jobs.overhead import engine_options
from unified_latents.service.bench.live import memory
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.lengths import stride, windows
from unified_latents.service.engine.messages import Array, Decode, ModelCard, Trajectory
from unified_latents.service.engine.seam import result

BOUND = 1.3
"""How many times what the model's own length takes a longer clip may take."""
_LOWER_THE_MARK = "5"


class Held(NamedTuple):
    """One clip's decoding; sizes in MB."""

    frames: int
    windows: int
    before: float
    """Resident in the engine when it was ready."""
    peak: float
    """The most that was resident from then on."""
    seconds: float


def run(name: str, folder: str, threads: int, frames: Sequence[int], steps: int) -> list[Held]:
    """Decode one clip of each length."""
    return [asyncio.run(_decoded(name, folder, threads, each, steps)) for each in frames]


async def _decoded(name: str, folder: str, threads: int, frames: int, steps: int) -> Held:
    engine = EngineClient(engine_options(name, folder, threads))
    await engine.start()
    try:
        card = (await loaded(engine)).models[0]
        pid = engine.status.pid or 0
        request = decoding(card, frames, steps)
        Path(f"/proc/{pid}/clear_refs").write_text(_LOWER_THE_MARK, "ascii")
        before, _ = memory(pid)
        began = time.perf_counter()
        await result(engine, request)
        seconds = time.perf_counter() - began
        return Held(frames, request.windows, before, memory(pid)[1], seconds)
    finally:
        await engine.stop()


def decoding(card: ModelCard, frames: int, steps: int) -> Decode:
    """Of noise; the arithmetic is that of any latent."""
    shape = (1, card.latent_shape[0], frames // stride(card), *card.latent_shape[2:])
    z = np.random.default_rng(frames).standard_normal(shape, dtype=np.float32)
    return Decode(
        id=0,
        model=card.name,
        strict=True,
        seed=frames,
        first=0,
        z=Array(shape, "float32", z.tobytes()),
        kind="z_0",
        decode=Trajectory(steps, "ancestral"),
        windows=windows(card, shape[2]),
    )


def table(held: Sequence[Held], say: Callable[[str], None]) -> None:
    """A line a length; ratios are to the first."""
    first = held[0]
    say("frames  windows  seconds  resident before  at most      ×  grown by")
    for each in held:
        ratio = each.peak / first.peak
        said = "" if each is first else "  kept" if ratio <= BOUND else "  MISSED"
        say(
            f"{each.frames:6}  {each.windows:7}  {each.seconds:7.1f}  {each.before:12.1f} MB"
            f"  {each.peak:6.1f} MB  {ratio:4.2f}  {each.peak - each.before:5.1f} MB{said}"
        )
