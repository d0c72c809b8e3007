"""Load generators: a closed loop of clients, and an open loop that does not wait for answers."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unified_latents.service.bench.serving.tasks import Task

Send = Callable[[Task], None]
"""Sends one request and reads its answer; raises where the answer is not a result."""


@dataclass(frozen=True)
class Run:
    """What a load came to: seconds of each answered request, in the order of the tasks."""

    tasks: tuple[Task, ...]
    latency: tuple[float, ...]
    seconds: float

    @property
    def throughput(self) -> float:
        """Requests a second, from the first one sent to the last one answered."""
        return len(self.latency) / self.seconds

    @property
    def row_steps(self) -> float:
        """Row evaluations a second."""
        return sum(task.row_steps for task in self.tasks) / self.seconds

    def quantile(self, percent: int) -> float:
        """Seconds within which `percent` of the requests were answered."""
        if len(self.latency) == 1:
            return self.latency[0]
        return statistics.quantiles(self.latency, n=100, method="inclusive")[percent - 1]

    @property
    def stretch(self) -> float:
        """The worst twentieth's seconds a row evaluation of its own over the median's.

        1 where every request waits in proportion to what it asks for.
        """
        each = sorted(s / task.row_steps for s, task in zip(self.latency, self.tasks, strict=True))
        return each[int(0.95 * (len(each) - 1))] / statistics.median(each)


def closed(send: Send, tasks: Sequence[Task], clients: int) -> Run:
    """`clients` that each send the next task as soon as they have their answer."""
    latency = [0.0] * len(tasks)

    def one(i: int) -> None:
        began = time.perf_counter()
        send(tasks[i])
        latency[i] = time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(one, i) for i in range(len(tasks))]:
            done.result()
    return Run(tuple(tasks), tuple(latency), time.perf_counter() - began)


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which the requests of a Poisson process of `rate` a second arrive."""
    draw, at, times = random.Random(seed), 0.0, []
    for _ in range(count):
        at += draw.expovariate(rate)
        times.append(at)
    return times


def opened(send: Send, tasks: Sequence[Task], at: Sequence[float]) -> Run:
    """Each task at its own time, answered or not: latency counts from when it was due."""
    latency, faults = [0.0] * len(tasks), []
    began = time.perf_counter()

    def one(i: int) -> None:
        try:
            send(tasks[i])
        except Exception as error:
            faults.append(error)
        latency[i] = time.perf_counter() - began - at[i]

    threads = []
    for i in range(len(tasks)):
        time.sleep(max(0.0, began + at[i] - time.perf_counter()))
        threads.append(threading.Thread(target=one, args=(i,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return Run(tuple(tasks), tuple(latency), time.perf_counter() - began)
