"""`ul-serve bench-overload`: three times what the service can do, for a minute, with a deadline.

What was admitted must keep its deadline; the rest must be refused at once, with the time to come
back; and nothing may grow. Before that, the engine meets every number of rows, for each of which
oneDNN keeps something, and then half as long of the same load.
"""

from __future__ import annotations

import http.client
import itertools
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from unified_latents.service.bench.live import buckets, quantile
from unified_latents.service.bench.serving.contenders import HOST, Live, Subject, contender
from unified_latents.service.bench.serving.load import arrivals, closed, opened
from unified_latents.service.bench.serving.tasks import Task, homogeneous, widths
from unified_latents.service.settings import Settings

FACTOR = 3.0
CLIENTS = 16
DEADLINE = 10.0
HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
REFUSALS = (429, 503)
_PROBE = 0.1


@dataclass(frozen=True)
class Outcome:
    """One request of the overload."""

    status: int
    seconds: float
    lacks: tuple[str, ...] = ()
    """Of all that a client needs to come back after a refusal, what was not said."""
    code: str = ""
    """Of an answer that is a problem."""


@dataclass
class Watch:
    """What is seen from outside while the load runs."""

    health: list[float] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)

    def resident(self, process: str) -> tuple[float, float]:
        """Resident kB after the warm-up and at the end: medians of the first and last quarter."""
        sizes = [sample[process] for sample in self.memory if process in sample]
        quarter = max(1, len(sizes) // 4)
        return statistics.median(sizes[:quarter]), statistics.median(sizes[-quarter:])


@dataclass(frozen=True)
class Served:
    """The server's own histograms over the load: upper edge in seconds → answers up to it."""

    refused: dict[float, float]
    health: dict[float, float]

    @classmethod
    def between(cls, before: str, after: str) -> Self:
        """From two readings of /metrics."""
        return cls(
            _between(before, after, "/generate", "refused"),
            _between(before, after, "/healthz", "ok"),
        )


def _between(before: str, after: str, route: str, outcome: str) -> dict[float, float]:
    old = buckets(before, route, outcome)
    return {edge: n - old.get(edge, 0) for edge, n in buckets(after, route, outcome).items()}


def run(subject: Subject, seconds: float, steps: int, say: Callable[[str], None]) -> None:
    """Measure the capacity, exceed it, and say what came of it."""
    with contender("ours", subject) as live:
        closed(live.send, widths(Settings.model_fields["max_rows"].default), 1)
        closed(live.send, homogeneous(CLIENTS, steps), CLIENTS)
        capacity = closed(live.send, homogeneous(3 * CLIENTS, steps), CLIENTS).throughput
        rate = FACTOR * capacity
        say(f"capacity {capacity:.2f} requests/s; {rate:.2f} a second for {seconds:g} s")
        _exceed(live, rate, seconds / 2, steps)
        before = live.text("/metrics")
        outcomes, watch = _exceed(live, rate, seconds, steps)
        served = Served.between(before, live.text("/metrics"))
        for line in report(outcomes, watch, served):
            say(line)


def _exceed(live: Live, rate: float, seconds: float, steps: int) -> tuple[list[Outcome], Watch]:
    alike = homogeneous(int(rate * seconds), steps)
    tasks = [replace(task, seed=10_000 + task.seed) for task in alike]
    outcomes: list[Outcome] = []
    watch, stop = Watch(), threading.Event()
    watching = threading.Thread(target=_watch, args=(live, watch, stop))
    watching.start()
    try:
        times = arrivals(len(tasks), rate, 0)
        opened(lambda task: outcomes.append(_ask(live.port, task)), tasks, times)
    finally:
        stop.set()
        watching.join()
    return outcomes, watch


def _ask(port: int, task: Task) -> Outcome:
    body = json.dumps({**task.generation(strict=False), "timeout": DEADLINE}).encode()
    began = time.perf_counter()
    with closing(http.client.HTTPConnection(HOST, port)) as link:
        link.request("POST", "/generate", body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        text = answer.read()
        took = time.perf_counter() - began
        lacks = tuple(name for name in HEADERS if not answer.headers.get(name))
        code = "" if answer.status == 200 else json.loads(text)["code"]
        return Outcome(answer.status, took, lacks, code)


def _watch(live: Live, watch: Watch, stop: threading.Event) -> None:
    """Health ten times a second, memory once."""
    for turn in itertools.count():
        if stop.wait(_PROBE):
            return
        began = time.perf_counter()
        live.text("/healthz")
        watch.health.append(time.perf_counter() - began)
        if turn % 10 == 0:
            watch.memory.append(resident(live.pid))


def resident(api: int) -> dict[str, int]:
    """Resident kB of the API process and of the engine, its child (Linux)."""
    children = Path(f"/proc/{api}/task/{api}/children").read_text("ascii").split()
    engines = [pid for pid in children if b".stepper" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    sizes = {"api": _resident(api)}
    return sizes | {"engine": _resident(int(engines[0]))} if engines else sizes


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.split("VmRSS:")[1].split()[0])


def report(outcomes: Sequence[Outcome], watch: Watch, served: Served) -> list[str]:
    """Statuses; lateness of what was admitted; refusals and health; memory. Targets in brackets."""
    counts = Counter(outcome.status for outcome in outcomes)
    health = sorted(watch.health)[int(0.99 * (len(watch.health) - 1))]
    return [
        f"{len(outcomes)} requests: "
        + ", ".join(f"{n} × {status}" for status, n in sorted(counts.items()))
        + f"; {counts[500]} × 500 [0]",
        *_admitted(outcomes),
        *_refused([each for each in outcomes if each.status in REFUSALS], served.refused),
        f"/healthz: p99 {1000 * health:.1f} ms at the client [50], {len(watch.health)} probes; "
        f"≤ {1000 * quantile(served.health, 0.99):g} ms in the server",
        *(_memory(name, *watch.resident(name)) for name in ("api", "engine")),
    ]


def _admitted(outcomes: Sequence[Outcome]) -> list[str]:
    """What the door let in, and how much of it was late."""
    done = sorted(outcome.seconds for outcome in outcomes if outcome.status == 200)
    after = sum(seconds > DEADLINE for seconds in done)
    expired = sum(outcome.status == 504 for outcome in outcomes)
    admitted, late = len(done) + expired, after + expired
    lines = [
        f"admitted: {admitted}, {late} late ({late / max(1, admitted):.2%} [1 %]): "
        f"{after} answered after their deadline of {DEADLINE:g} s, {expired} × 504"
    ]
    if len(done) > 1:
        cuts = statistics.quantiles(done, n=100, method="inclusive")
        lines.append(f"  answered: p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s at the client")
    return lines


def _refused(refused: Sequence[Outcome], histogram: dict[float, float]) -> list[str]:
    """How soon refusals were made, and which of them did not say when to come back."""
    silent = Counter((each.code, each.lacks) for each in refused if each.lacks)
    codes = Counter(each.code for each in refused)
    return [
        f"refused: {len(refused)}, p99 ≤ {1000 * quantile(histogram, 0.99):g} ms in the server "
        f"[10]; all {len(HEADERS)} headers on {len(refused) - silent.total()} [all]",
        *(f"  {n} × {code}" for code, n in sorted(codes.items())),
        *(f"  {n} × {code} without {', '.join(names)}" for (code, names), n in silent.items()),
    ]


def _memory(process: str, warm: float, last: float) -> str:
    megabytes = f"{warm / 1024:.1f} MB after the warm-up, {last / 1024:.1f} MB at the end"
    return f"{process}: {megabytes}, ×{last / warm:.3f} [1 ± 0.05]"
