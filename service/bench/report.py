"""`ul-serve bench`: ratios taken in one run, alternating, so that a busy machine cancels out."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from unified_latents.service.engine.spawn import EngineOptions, environment
from unified_latents.service.settings import usable_threads

IMAGES = 16
GUIDANCE = 1.5
BATCHES = (1, 4, 8, 16)
STAGES = ("base", "decode", "encode")
_MODULE = "unified_latents.service"
_PASS_REPEATS = 5


class Direct:
    """A process that runs the bare loop."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def seconds(self, **task: Any) -> float:
        """How long the task took."""
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("the process has no pipes")
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def direct(folder: str, threads: int, variables: Mapping[str, str]) -> Iterator[Direct]:
    """A direct process in an environment."""
    command = [sys.executable, "-P", "-m", f"{_MODULE}.bench.direct", folder, str(threads)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=dict(variables), stdin=pipe, stdout=pipe, text=True
    ) as child:
        try:
            yield Direct(child)
        finally:
            child.communicate()


@contextmanager
def server(name: str, folder: str, threads: int) -> Iterator[str]:
    """`ul-serve up` on a free port; its address, once it is ready."""
    command = [sys.executable, "-P", "-m", _MODULE, "up", "--model", f"{name}={folder}"]
    variables = {**os.environ, "PORT": "0", "UL_THREADS": str(threads)}
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as child:
        try:
            url = _wait_for(child, r"listening on (http://\S+)")
            _wait_for(child, r"(ready): torch")
            yield url
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


def served(url: str, steps: int, seed: int, strict: bool) -> float:
    """Seconds of one request for all images over HTTP."""
    body = {
        "label": 0,
        "n": IMAGES,
        "seed": seed,
        "steps": {"base": steps, "decode": steps},
        "sampler": {"base": "dpmpp-2m", "decode": "ancestral"},
        "guidance": GUIDANCE,
        "guidance_interval": None,
        "strict": strict,
    }
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        response.read()
    return time.perf_counter() - began


def run(name: str, folder: str, rounds: int, steps: int) -> str:
    """The report as text."""
    threads = usable_threads()
    reproducible = environment(EngineOptions((), threads=threads))
    free = {key: value for key, value in reproducible.items() if key != "MKL_CBWR"}
    lines = [f"{IMAGES} images, {steps} + {steps} steps, guidance {GUIDANCE}, {threads} threads"]
    with ExitStack() as stack:
        same = stack.enter_context(direct(folder, threads, reproducible))
        fast = stack.enter_context(direct(folder, threads, free))
        url = stack.enter_context(server(name, folder, threads))
        lines += [_overhead(url, same, rounds, steps, strict=mode) for mode in (True, False)]
        lines += ["", "stage   rows   fast rows/s   strict rows/s   price of strict"]
        for stage in STAGES:
            lines += [_price(stage, n, same, fast, rounds) for n in BATCHES]
    return "\n".join(lines)


def _overhead(url: str, bare: Direct, rounds: int, steps: int, *, strict: bool) -> str:
    """Service over bare loop, each pair one after the other; the first pair only warms up."""
    ratios, ours = [], []
    for seed in range(rounds + 1):
        took = served(url, steps, seed, strict)
        alone = bare.seconds(
            stage="all", n=IMAGES, steps=steps, guidance=GUIDANCE, seed=seed, strict=strict
        )
        ratios.append(took / alone)
        ours.append(took)
    mode = "strict" if strict else "fast"
    rate = IMAGES / statistics.median(ours[1:])
    return f"service / bare loop, {mode}: {_spread(ratios[1:])}; {rate:.2f} images/s served"


def _price(stage: str, n: int, same: Direct, fast: Direct, rounds: int) -> str:
    pairs = []
    for _ in range(rounds):
        task = {"stage": stage, "n": n, "repeats": _PASS_REPEATS}
        pairs.append((fast.seconds(**task, strict=False), same.seconds(**task, strict=True)))
    quick, exact = (n / statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [strict / free for free, strict in pairs]
    return f"{stage:<7} {n:>4}   {quick:>11.1f}   {exact:>13.1f}   {_spread(ratios)}"


def _spread(ratios: Sequence[float]) -> str:
    return f"×{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"
