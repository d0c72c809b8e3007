"""`ul-serve bench-jobs`: one table, with what is aimed at beside what was measured."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from unified_latents.service.bench.jobs import backlog, overhead
from unified_latents.service.bench.jobs.backlog import CROWD, PAGE, Backlog
from unified_latents.service.bench.jobs.desk import Program, store
from unified_latents.service.bench.jobs.overhead import SAMPLES, SLOTS, Idle, Real
from unified_latents.service.bench.live import quantile

LONG = 10.0
"""Seconds of the job that an overhead is a share of."""
SHARE = 0.03
SUBMIT = 0.02
MEMORY = 2048
_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    jobs: int
    """In the long queue."""
    idle: int
    """Through a worker whose engine does nothing."""
    seconds: float
    """Of a job of real decoding, about."""
    program: Program


class Row(NamedTuple):
    """One line of the table; `kept` is whether the target is, where there is one."""

    what: str
    measured: str
    target: str = ""
    kept: bool | None = None

    def line(self) -> str:
        """As text."""
        said = "" if self.kept is None else "kept" if self.kept else "MISSED"
        return f"{self.what:<52} {self.measured:<34} {self.target:<10} {said}".rstrip()


def run(name: str, folder: str, threads: int, plan: Plan, say: Callable[[str], None]) -> None:
    """Every measurement on an empty store, its rows as soon as they are there."""
    say(Row("", "measured", "target").line())
    asyncio.run(_run(name, folder, threads, plan, lambda row: say(row.line())))


async def _run(
    name: str, folder: str, threads: int, plan: Plan, tell: Callable[[Row], None]
) -> None:
    options = overhead.engine_options(name, folder, threads)
    async with _empty(plan.program) as (url, home):
        for row in idle_rows(await overhead.idle(url, home, plan.idle)):
            tell(row)
        real = await overhead.decoding(url, home, options, plan.seconds, _ROUNDS)
        for row in real_rows(real):
            tell(row)
    async with _empty(plan.program) as (url, home):
        found = await backlog.measure(url, home, name, folder, threads, plan.jobs)
        for row in backlog_rows(found):
            tell(row)


@asynccontextmanager
async def _empty(program: Program) -> AsyncIterator[tuple[str, Path]]:
    with TemporaryDirectory() as home:
        async with store(program) as url:
            yield url, Path(home)


def idle_rows(found: Idle) -> list[Row]:
    """A job on an engine that does nothing is all overhead."""
    each = statistics.median(found.alone)
    share = each / LONG
    return [
        Row(f"no-op engine: jobs/s, {SLOTS} at once", f"{found.drained:.1f}"),
        Row(
            f"no-op engine: a job alone, of {LONG:g} s",
            f"{1000 * each:.0f} ms (at most {1000 * max(found.alone):.0f}), {share:.2%}",
            f"≤ {SHARE:.0%}",
            share <= SHARE,
        ),
    ]


def real_rows(found: Sequence[Real]) -> list[Row]:
    """Beside the engine, and in it: snapshots are the job's too."""
    outside = statistics.median(each.outside for each in found)
    engine = statistics.median(each.engine for each in found)
    share = outside / LONG
    ratios = [each.engine / each.bare for each in found]
    spread = f"({min(ratios):.3f} … {max(ratios):.3f})"
    return [
        Row(f"decoding {SAMPLES} pictures: in the engine", f"{engine:.2f} s"),
        Row(
            f"decoding: beside the engine, of {LONG:g} s",
            f"{1000 * outside:.0f} ms, {share:.2%}",
            f"≤ {SHARE:.0%}",
            share <= SHARE,
        ),
        Row(
            "decoding: in the engine, job / call without one",
            f"×{statistics.median(ratios):.3f} {spread}",
        ),
    ]


def backlog_rows(found: Backlog) -> list[Row]:
    """The long queue."""
    whole = found.repeated == found.missing == 0
    submit = quantile(found.alone, 0.99)
    return [
        Row(
            f"jobs queued by {CROWD} clients",
            f"{len(found.submitted)} at {found.rate:.0f} a second",
        ),
        Row("  POST /jobs in the server, p50 and p99", _both(found.crowd)),
        Row(
            "POST /jobs at that length, one client, p50 and p99",
            _both(found.alone),
            f"≤ {1000 * SUBMIT:g} ms",
            submit <= SUBMIT,
        ),
        Row(
            "memory of the store a job",
            f"{found.memory:.0f} B",
            f"< {MEMORY} B",
            found.memory < MEMORY,
        ),
        Row(
            f"GET /jobs, {PAGE} a page",
            f"{found.repeated} twice, {found.missing} missing",
            "0, 0",
            whole,
        ),
        Row("  a page in the server, p50 and p99", _both(found.pages)),
        Row(
            "priorities 1, 2, 3 overtake, then the oldest",
            "yes" if found.taken == found.order else f"{found.taken}",
            "yes",
            found.taken == found.order,
        ),
    ]


def _both(counts: dict[float, float]) -> str:
    """The server's histogram says only between which edges a quantile lies."""
    middle, worst = (1000 * quantile(counts, share) for share in (0.5, 0.99))
    return f"≤ {middle:g} ms, ≤ {worst:g} ms"
