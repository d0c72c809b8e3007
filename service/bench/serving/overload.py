"""`ul-serve bench-overload`: three times what the service can do, for a minute, with a deadline.

What was admitted must keep its deadline; the rest must be refused at once, with the time to come
back; and nothing may grow.
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

from unified_latents.service.bench.live import buckets, quantile
from unified_latents.service.bench.serving.contenders import HOST, Live, Subject, contender
from unified_latents.service.bench.serving.load import arrivals, closed, opened
from unified_latents.service.bench.serving.tasks import Task, homogeneous

FACTOR = 3.0
CLIENTS = 16
DEADLINE = 10.0
HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
_PROBE = 0.1


@dataclass(frozen=True)
class Outcome:
    """One request of the overload."""

    status: int
    seconds: float
    headers: bool
    """Whether a refusal says all that a client needs to come back."""


@dataclass
class Watch:
    """What is seen from outside while the load runs."""

    health: list[float] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)

    def growth(self, process: str) -> float:
        """Resident memory in the last quarter over those in the second: after the warm-up."""
        sizes = [sample[process] for sample in self.memory if process in sample]
        quarter = max(1, len(sizes) // 4)
        return statistics.median(sizes[-quarter:]) / statistics.median(sizes[quarter : 2 * quarter])


def run(subject: Subject, seconds: float, steps: int, say: Callable[[str], None]) -> None:
    """Measure the capacity, exceed it, and say what came of it."""
    with contender("ours", subject) as live:
        closed(live.send, homogeneous(CLIENTS, steps), CLIENTS)
        capacity = closed(live.send, homogeneous(3 * CLIENTS, steps), CLIENTS).throughput
        rate = FACTOR * capacity
        say(f"capacity {capacity:.2f} requests/s; {rate:.2f} a second for {seconds:g} s")
        before = buckets(live.text("/metrics"), "/generate", "error")
        outcomes, watch = _exceed(live, rate, seconds, steps)
        after = buckets(live.text("/metrics"), "/generate", "error")
        refusals = {edge: count - before.get(edge, 0) for edge, count in after.items()}
        for line in report(outcomes, watch, refusals):
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
        answer.read()
        took = time.perf_counter() - began
        return Outcome(answer.status, took, all(answer.headers.get(name) for name in HEADERS))


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


def report(outcomes: Sequence[Outcome], watch: Watch, refusals: dict[float, float]) -> list[str]:
    """Statuses, deadlines, refusals by the server's own histogram, memory and health."""
    counts = Counter(outcome.status for outcome in outcomes)
    done = sorted(outcome.seconds for outcome in outcomes if outcome.status == 200)
    late = sum(seconds > DEADLINE for seconds in done) + counts[504]
    refused = [outcome for outcome in outcomes if outcome.status in (429, 503)]
    lines = [
        f"{len(outcomes)} requests: " + ", ".join(f"{n} × {s}" for s, n in sorted(counts.items())),
        f"admitted: {len(done)} answered, {late} after their deadline of {DEADLINE:g} s",
    ]
    if len(done) > 1:
        cuts = statistics.quantiles(done, n=100, method="inclusive")
        lines.append(f"  p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s at the client")
    lines += [
        f"refused: {len(refused)}, all headers on {sum(r.headers for r in refused)}; "
        f"p99 ≤ {1000 * quantile(refusals, 0.99):g} ms in the server",
        f"/healthz: p99 {1000 * sorted(watch.health)[int(0.99 * (len(watch.health) - 1))]:.1f} ms "
        f"at the client, {len(watch.health)} probes",
        *(f"{name}: memory ×{watch.growth(name):.3f}" for name in ("api", "engine")),
    ]
    return lines
