"""`ul-serve bench`: ratios taken in one run, alternating, so that a busy machine cancels out."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from unified_latents.service.bench.live import GUIDANCE, Server, health, server
from unified_latents.service.engine.spawn import EngineOptions, environment
from unified_latents.service.settings import usable_threads

IMAGES = 16
PROBES = 500
BATCHES = (1, 4, 8, 16)
STAGES = ("base", "decode", "encode")
_MODULE = "unified_latents.service"
_PASS_REPEATS = 5
_SCHEDULED = 2
"""Linux numbers the clock of another process by its id and the kind of time: scheduled."""


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
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the bare loop ended before it had answered")
        return float(answer)

    def cpu(self) -> float:
        """Seconds of CPU time of the process so far, all its threads together; on Linux only."""
        return time.clock_gettime((~self._process.pid << 3) | _SCHEDULED)


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


def run(name: str, folder: str, rounds: int, steps: int) -> str:
    """The report as text."""
    threads = usable_threads()
    reproducible = environment(EngineOptions((), threads=threads))
    free = {key: value for key, value in reproducible.items() if key != "MKL_CBWR"}
    lines = [f"{IMAGES} images, {steps} + {steps} steps, guidance {GUIDANCE}, {threads} threads"]
    lines += ["", *contests(folder, rounds, steps, sorted({1, threads})), ""]
    with ExitStack() as stack:
        same = stack.enter_context(direct(folder, threads, reproducible))
        fast = stack.enter_context(direct(folder, threads, free))
        live = stack.enter_context(server(name, folder, threads))
        for strict in (True, False):
            lines += [_overhead(live, same, n, rounds, steps, strict=strict) for n in (1, IMAGES)]
        lines += ["", *health(live, PROBES, steps), *_weight(live)]
        lines += ["", "stage   rows   fast rows/s   strict rows/s   price of strict"]
        for stage in STAGES:
            lines += [_price(stage, n, same, fast, rounds) for n in BATCHES]
    return "\n".join(lines)


def contests(folder: str, rounds: int, steps: int, threads: Iterable[int]) -> list[str]:
    """The base model against diffusers' DiT, both without MKL's reproducible mode."""
    if importlib.util.find_spec("diffusers") is None:
        return ["base model / DiT: diffusers is not installed (it is in the extra `dev`)"]
    lines = []
    for count in threads:
        free = environment(EngineOptions((), threads=count))
        free.pop("MKL_CBWR", None)
        with direct(folder, count, free) as bare:
            lines += _contest(bare, rounds, steps, count)
    return lines


def _contest(bare: Direct, rounds: int, steps: int, threads: int) -> list[str]:
    """Each pair one after the other; the first pair only warms up."""
    ours, theirs = (bare.seconds(stage="flops", who=who) for who in ("base", "rival"))
    task = {"stage": "latents", "n": IMAGES, "steps": steps, "guidance": GUIDANCE}
    pairs = [
        (bare.seconds(**task, who="base"), bare.seconds(**task, who="rival"))
        for _ in range(rounds + 1)
    ][1:]
    ratios = [rival / base for base, rival in pairs]
    work = theirs / ours
    rate = IMAGES / statistics.median(base for base, _ in pairs)
    return [
        f"diffusers DiT / base model, {IMAGES} latents, {steps} steps, {threads} thread(s): "
        f"{_spread(ratios)}; {rate:.1f} latents/s ours",
        f"  a row: {ours / 1e6:.2f} MFLOP ours, {theirs / 1e6:.2f} DiT (×{work:.3f}); "
        f"time per FLOP, DiT / ours: {_spread([ratio / work for ratio in ratios])}",
    ]


def _weight(live: Server) -> list[str]:
    now, peak = live.memory()
    return [
        f"ready {live.start_seconds:.1f} s after start; "
        f"API process {now:.0f} MB resident, {peak:.0f} MB at most"
    ]


def _overhead(live: Server, bare: Direct, n: int, rounds: int, steps: int, *, strict: bool) -> str:
    """A request's time over the bare loop's, each pair one after the other; the first warms up.

    A request for one image has three pairs a round: it is short.
    """
    ratios, ours = [], []
    for seed in range((3 if n == 1 else 1) * rounds + 1):
        took = live.generate(n, steps, seed, strict=strict)
        alone = bare.seconds(
            stage="all", n=n, steps=steps, guidance=GUIDANCE, seed=seed, strict=strict
        )
        ratios.append(took / alone)
        ours.append(took)
    mode, median = "strict" if strict else "fast", statistics.median(ours[1:])
    return (
        f"service / bare loop, {n} image(s), {mode}: {_spread(ratios[1:])}; "
        f"{median:.2f} s, {n / median:.2f} images/s served"
    )


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
