"""What an engine says of its own work: passes, what they cost, and what lies ahead of it."""

from __future__ import annotations

from typing import Literal

import msgspec

StageName = Literal["base", "decode", "encode", "rate"]
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""From the first served to the last."""


class GraphCounts(msgspec.Struct):
    """Evaluations by networks on CUDA."""

    replays: int = 0
    """Of what had been recorded."""
    padding_rows: int = 0
    """Rows that nobody asked for, replayed or launched."""
    not_recordable: int = 0
    """Launched kernel by kernel, because recording had failed."""
    recorded: int = 0
    """New ones: a pass with one among them took longer than the next will."""


class Tick(msgspec.Struct, tag="tick", frozen=True):
    """One forward pass: what it was, and what is left after it."""

    stage: StageName
    samples: int
    conditional_rows: int
    unconditional_rows: int
    seconds: float
    waited: dict[Priority, tuple[float, ...]]
    """Seconds from arrival to first step, of each request that took its first step here."""
    nonfinite: int
    inflight: dict[StageName, int]
    """Samples that still have steps to go after this pass, by stage."""
    queued: dict[StageName, dict[Priority, int]]
    """Those of them whose request has not had its first step."""
    drain: float = 0.0
    """Forecast of the seconds until all that the engine has now is done."""
    preview_rows: int = 0
    """Rows that were early looks."""
    out_of_memory: dict[str, int] = {}
    """Times that memory ran out, by what was done: split, retry, failed."""
    bisected: dict[str, int] = {}
    """Batches that raised, by how that ended: recovered, culprit."""
    graphs: GraphCounts = msgspec.field(default_factory=GraphCounts)


class Cost(msgspec.Struct, frozen=True):
    """A pass of up to `bucket` rows (a power of two): mean rows and mean seconds."""

    model: str
    strict: bool
    stage: StageName
    bucket: int
    rows: float
    seconds: float


class Costs(msgspec.Struct, tag="costs", frozen=True):
    """All that the engine has measured; sent when it is ready, and again as it learns."""

    costs: tuple[Cost, ...]
    bias: float = 1.0
    """How many times as long as forecast requests took lately."""


def bucket(rows: int) -> int:
    """The smallest power of two that holds `rows`."""
    return 1 << max(0, rows - 1).bit_length()
