"""What a request costs: in row-steps, the unit of budgets and of the queue; and in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from unified_latents.service.engine.messages import Decode, Encode, Generate, Request
from unified_latents.service.engine.telemetry import Cost, Costs, StageName

RATE_ROWS = 64
"""Levels of a bitrate in one pass of the engine."""


class Passes(NamedTuple):
    """What one stage of a request needs: passes one after another, each of so many rows."""

    stage: StageName
    passes: int
    rows: int


def passes(request: Request) -> list[Passes]:
    """The passes of each stage, were the request alone.

    A guided sample has two rows inside the guidance interval. Which steps those are is the
    engine's to know, so they are counted as if every step were.
    """
    match request:
        case Generate():
            guided = 1 if request.guidance == 1 else 2
            stages = [Passes("base", request.base.steps, request.n * guided)]
            if request.decode is not None:
                stages.append(Passes("decode", request.decode.steps, request.n))
            return stages
        case Decode():
            return [Passes("decode", request.decode.steps, request.z.shape[0])]
        case Encode():
            rate = Passes("rate", -(-request.levels // RATE_ROWS), min(request.levels, RATE_ROWS))
            return [Passes("encode", 1, 1)] + [rate] * bool(request.levels)


def row_steps(request: Request) -> int:
    """Network evaluations of one row: n × (base steps × 2 if guided + decode steps)."""
    return sum(stage.passes * stage.rows for stage in passes(request))


def seconds(request: Request, costs: Costs) -> float:
    """How long the request would take alone; 0 for what has not been measured yet."""
    known = [c for c in costs.costs if (c.model, c.strict) == (request.model, request.strict)]
    return sum(
        stage.passes * _pass_seconds(stage.rows, [c for c in known if c.stage == stage.stage])
        for stage in passes(request)
    )


def _pass_seconds(rows: int, known: Iterable[Cost]) -> float:
    """By the smallest bucket that holds the rows; several passes of the largest if none does."""
    buckets = sorted(known, key=lambda cost: cost.bucket)
    if not buckets:
        return 0.0
    fitting = next((cost for cost in buckets if cost.bucket >= rows), None)
    if fitting is not None:
        return fitting.seconds
    return buckets[-1].seconds * (rows / buckets[-1].bucket)
