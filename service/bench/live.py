"""A real server under the bench: how soon it is ready, what it weighs, how it answers when busy."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GUIDANCE = 1.5
CLIENTS = 20
_MODULE = "unified_latents.service"
_PAUSE = 0.02
_BUCKET = r'^ul_request_duration_seconds_bucket\{le="(\S+)",outcome="%s",route="%s"\} (\S+)$'


@dataclass(frozen=True)
class Server:
    """`ul-serve up`, ready."""

    url: str
    pid: int
    start_seconds: float
    """From the start of its process to readiness, canary included."""

    def get(self, path: str) -> str:
        """The text of an answer."""
        with urllib.request.urlopen(f"{self.url}{path}") as response:
            text: str = response.read().decode()
        return text

    def generate(self, n: int, steps: int, seed: int, *, strict: bool) -> float:
        """Seconds of one request for n images over HTTP."""
        body = {
            "label": 0,
            "n": n,
            "seed": seed,
            "steps": {"base": steps, "decode": steps},
            "sampler": {"base": "dpmpp-2m", "decode": "ancestral"},
            "guidance": GUIDANCE,
            "guidance_interval": None,
            "strict": strict,
        }
        request = urllib.request.Request(
            f"{self.url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request) as response:
            response.read()
        return time.perf_counter() - began

    def memory(self) -> tuple[float, float]:
        """Of the API process."""
        return memory(self.pid)


def memory(pid: int) -> tuple[float, float]:
    """Resident MB of a process, now and at most so far (Linux; NaN elsewhere)."""
    status = Path(f"/proc/{pid}/status")
    text = status.read_text("utf-8") if status.exists() else ""
    found = (re.search(rf"^{name}:\s+(\d+) kB", text, re.M) for name in ("VmRSS", "VmHWM"))
    now, peak = (int(each[1]) / 1024 if each else float("nan") for each in found)
    return now, peak


@contextmanager
def server(name: str, folder: str, threads: int, **settings: str) -> Iterator[Server]:
    """`ul-serve up` on a free port, from its start to readiness and to its end.

    `settings` join those of the environment but UL_COMPILED: what `direct` runs is not compiled.
    """
    command = [sys.executable, "-P", "-m", _MODULE, "up", "--model", f"{name}={folder}"]
    plain = {name: value for name, value in os.environ.items() if name != "UL_COMPILED"}
    variables = {**plain, "PORT": "0", "UL_THREADS": str(threads), **settings}
    began = time.perf_counter()
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as child:
        try:
            url = _wait_for(child, r"listening on (http://\S+)")
            _wait_for(child, r"(ready): torch")
            yield Server(url, child.pid, time.perf_counter() - began)
        finally:
            child.terminate()
            child.communicate()


def _wait_for(child: subprocess.Popen[str], pattern: str) -> str:
    lines = []
    for line in child.stderr or ():
        lines.append(line)
        if found := re.search(pattern, line):
            return found.group(1)
    raise RuntimeError("the server ended:\n" + "".join(lines))


def health(live: Server, probes: int, steps: int) -> list[str]:
    """/healthz while CLIENTS requests keep the engine busy: as a client sees it, and the server."""
    before, stop = buckets(live.get("/metrics")), threading.Event()

    def load(client: int) -> int:
        done = 0
        while not stop.is_set():
            live.generate(1, steps, client, strict=True)
            done += 1
        return done

    took: list[float] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load, client) for client in range(CLIENTS)]
        try:
            took = [_probe(live) for _ in range(probes)]
        finally:
            stop.set()
        served = sum(client.result() for client in clients)
    after = buckets(live.get("/metrics"))
    counts = {edge: count - before.get(edge, 0) for edge, count in after.items()}
    return [
        f"/healthz under {CLIENTS} requests ({probes} probes, {served} images made meanwhile):",
        f"  client: p50 {_ms(took, 50)}, p99 {_ms(took, 99)}, most {1000 * max(took):.1f} ms",
        f"  server: p50 ≤ {1000 * quantile(counts, 0.5):g} ms, p99 ≤ "
        f"{1000 * quantile(counts, 0.99):g} ms (ul_request_duration_seconds)",
    ]


def _probe(live: Server) -> float:
    time.sleep(_PAUSE)
    began = time.perf_counter()
    live.get("/healthz")
    return time.perf_counter() - began


def _ms(seconds: Sequence[float], percent: int) -> str:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{1000 * cuts[percent - 1]:.1f} ms"


def buckets(metrics: str, route: str = "/healthz", outcome: str = "ok") -> dict[float, float]:
    """Upper edge in seconds → a route's answers up to it, from the server's own histogram."""
    found = re.findall(_BUCKET % (outcome, re.escape(route)), metrics, re.M)
    return {float(edge): float(count) for edge, count in found}


def quantile(counts: dict[float, float], share: float) -> float:
    """The smallest edge that at least `share` of the answers kept; NaN where there were none."""
    total = max(counts.values(), default=0)
    kept: list[Any] = [edge for edge, n in counts.items() if total and n >= share * total]
    return min(kept, default=float("nan"))
