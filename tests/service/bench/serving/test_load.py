from __future__ import annotations

import threading
import time

import pytest

from unified_latents.service.bench.serving.load import Run, arrivals, closed, opened
from unified_latents.service.bench.serving.tasks import Task, homogeneous


class Counter:
    """How many requests are open at once."""

    def __init__(self) -> None:
        self.now, self.most, self.seen = 0, 0, list[int]()
        self._lock = threading.Lock()

    def send(self, task: Task) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.seen.append(task.seed)
        time.sleep(0.01)
        with self._lock:
            self.now -= 1


def test_a_closed_loop_keeps_its_clients_busy_and_no_more() -> None:
    counter = Counter()
    run = closed(counter.send, homogeneous(12, 1), 4)
    assert counter.most == 4
    assert sorted(counter.seen) == list(range(12))
    assert min(run.latency) >= 0.01


def test_an_open_loop_does_not_wait_for_answers() -> None:
    counter = Counter()
    opened(counter.send, homogeneous(8, 1), [0.0] * 8)
    assert counter.most > 1
    assert sorted(counter.seen) == list(range(8))


def test_a_failed_request_fails_the_run() -> None:
    def send(task: Task) -> None:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        opened(send, homogeneous(2, 1), [0.0, 0.0])
    with pytest.raises(RuntimeError, match="refused"):
        closed(send, homogeneous(2, 1), 1)


def test_arrivals_come_at_their_rate() -> None:
    times = arrivals(4000, 20, 0)
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(20, rel=0.05)


def test_a_run_is_summed_up() -> None:
    tasks = (Task("generate", 0), Task("generate", 1, n=4))
    run = Run(tasks, (1.0, 4.0), 8.0)
    assert run.throughput == 0.25
    assert run.row_steps == 10 / 8
    assert run.quantile(50) == 2.5
    assert run.stretch == 1.0
