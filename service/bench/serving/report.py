"""`ul-serve bench-serve`: rounds of every contender in turn, and the ratios between them."""

from __future__ import annotations

import base64
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from PIL import Image, ImageChops

from unified_latents.service.bench.serving.contenders import RIVALS, Live, Name, Subject, contender
from unified_latents.service.bench.serving.load import Run, arrivals, closed, opened
from unified_latents.service.bench.serving.tasks import Picture, Task, heterogeneous, homogeneous

CLIENTS = 16
SHARE = 0.7
"""The open loop's rate, in parts of the best rival's closed-loop throughput on mixed requests."""
SHIPPED_PICTURE = Picture("L", 32, 32)
"""What the shipped model reads."""
_SINGLE = 8


@dataclass(frozen=True)
class Plan:
    """How much to send."""

    requests: int
    steps: int
    rounds: int
    names: tuple[Name, ...] = ("naive", "litserve", "ray", "ours", "ours-strict")


@dataclass(frozen=True)
class Row:
    """One contender under one load in one round."""

    load: str
    name: Name
    requests_per_second: float
    rows_per_second: float
    p50: float
    p95: float
    stretch: float


def run(subject: Subject, plan: Plan, say: Callable[[str], None]) -> list[Row]:
    """All rounds; each contender's line as it ends. RuntimeError where a picture differs."""
    rows: list[Row] = []
    pictures: dict[Name, str] = {}
    for turn in range(plan.rounds):
        for name in plan.names:
            with contender(name, subject) as live:
                pictures[name] = live.files(Task("generate", 1, 3, 1, 4, 4))[0]
                rows += _note(_closed(live, plan, turn), name, say)
        _agree(pictures)
        rivals = [name for name in plan.names if name in RIVALS]
        rate = SHARE * max(_throughput(rows, "mixed", name) for name in rivals)
        for name in plan.names:
            with contender(name, subject) as live:
                rows += _note(_opened(live, plan, turn, rate), name, say)
    return rows


def _closed(live: Live, plan: Plan, turn: int) -> Iterable[tuple[str, Run]]:
    closed(live.send, homogeneous(4, 2), 4)
    single = homogeneous(_SINGLE, plan.steps)
    yield "one client", closed(live.send, single, 1)
    yield "same plan", closed(live.send, homogeneous(plan.requests, plan.steps), CLIENTS)
    yield "mixed", closed(live.send, heterogeneous(plan.requests, turn), CLIENTS)


def _opened(live: Live, plan: Plan, turn: int, rate: float) -> Iterable[tuple[str, Run]]:
    closed(live.send, homogeneous(4, 2), 4)
    tasks = heterogeneous(plan.requests, 1000 + turn)
    yield "mixed, open", opened(live.send, tasks, arrivals(len(tasks), rate, turn))


def _note(runs: Iterable[tuple[str, Run]], name: Name, say: Callable[[str], None]) -> Iterable[Row]:
    for load, each in runs:
        row = Row(
            load,
            name,
            each.throughput,
            each.row_steps,
            each.quantile(50),
            each.quantile(95),
            each.stretch,
        )
        say(_line(row))
        yield row


def _line(row: Row) -> str:
    return (
        f"{row.load:<12} {row.name:<12} {row.requests_per_second:7.2f} requests/s "
        f"{row.rows_per_second:8.1f} rows/s   p50 {row.p50:6.2f} s   p95 {row.p95:6.2f} s   "
        f"stretch {row.stretch:5.1f}"
    )


def _agree(pictures: dict[Name, str]) -> None:
    """Every contender made the same picture, to the last level of a pixel."""
    first, *others = (Image.open(io.BytesIO(base64.b64decode(text))) for text in pictures.values())
    for name, other in zip(list(pictures)[1:], others, strict=True):
        extrema = ImageChops.difference(first, other).getextrema()
        worst = extrema[1] if isinstance(extrema[0], (int, float)) else max(e[1] for e in extrema)
        if worst > 1:
            raise RuntimeError(f"{name}'s picture is {worst} levels off: not the same work")


def _throughput(rows: Sequence[Row], load: str, name: Name) -> float:
    found = [row.requests_per_second for row in rows if (row.load, row.name) == (load, name)]
    return statistics.median(found)


def ratios(rows: Sequence[Row]) -> list[str]:
    """Ours over each rival, round by round: the median and the range."""
    by_load: dict[str, dict[Name, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_load[row.load][row.name].append(row)
    lines = []
    for load, names in by_load.items():
        for ours in (name for name in names if name.startswith("ours")):
            rivals = (name for name in names if name in RIVALS)
            lines += [_ratio(load, names[ours], names[rival]) for rival in rivals]
    return lines


def _ratio(load: str, ours: Sequence[Row], theirs: Sequence[Row]) -> str:
    pairs = list(zip(ours, theirs, strict=True))
    rate = [a.requests_per_second / b.requests_per_second for a, b in pairs]
    tail = [a.p95 / b.p95 for a, b in pairs]
    return (
        f"{load:<12} {ours[0].name} / {theirs[0].name}: throughput {_spread(rate)}, "
        f"p95 {_spread(tail)}"
    )


def _spread(values: Sequence[float]) -> str:
    return f"×{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def as_json(rows: Sequence[Row]) -> str:
    """Every row, for other programs."""
    return json.dumps([asdict(row) for row in rows], indent=1)
