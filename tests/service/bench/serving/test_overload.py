from __future__ import annotations

import os
import sys
from pathlib import Path

from unified_latents.service.bench.live import quantile
from unified_latents.service.bench.serving import overload, report
from unified_latents.service.bench.serving.contenders import Subject
from unified_latents.service.bench.serving.overload import Outcome, Served, Watch
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import SHIPPED


def test_a_real_service_is_exceeded() -> None:
    subject = Subject(SHIPPED, report.SHIPPED_PICTURE, 1, Path(sys.executable))
    lines: list[str] = []
    overload.run(subject, 2, 1, lines.append)
    assert lines[0].startswith("capacity ")
    assert any(line.startswith("engine: ") for line in lines)
    assert not any(" without " in line for line in lines)


def test_the_report_parts_what_was_late_from_what_was_refused() -> None:
    outcomes = [
        Outcome(200, 1.0),
        Outcome(200, overload.DEADLINE + 1),
        Outcome(504, overload.DEADLINE, code="deadline_exceeded"),
        Outcome(503, 0.01, code="deadline_unmet"),
        Outcome(503, 0.01, ("retry-after", "retry-after-ms"), "deadline_unmet"),
    ]
    sizes = [{"api": 1024, "engine": 2048}] * 4 + [{"api": 1536, "engine": 2048}] * 4
    served = Served({0.002: 1.0, 0.005: 2.0}, {0.001: 100.0})
    lines = overload.report(outcomes, Watch([0.001] * 100, sizes), served)
    assert lines == [
        "5 requests: 2 × 200, 2 × 503, 1 × 504; 0 × 500 [0]",
        "admitted: 3, 2 late (66.67% [1 %]): 1 answered after their deadline of 10 s, 1 × 504",
        "  answered: p50 6.00 s, p99 10.90 s at the client",
        "refused: 2, p99 ≤ 5 ms in the server [10]; all 3 headers on 1 [all]",
        "  2 × deadline_unmet",
        "  1 × deadline_unmet without retry-after, retry-after-ms",
        "/healthz: p99 1.0 ms at the client [50], 100 probes; ≤ 1 ms in the server",
        "api: 1.0 MB after the warm-up, 1.5 MB at the end, ×1.500 [1 ± 0.05]",
        "engine: 2.0 MB after the warm-up, 2.0 MB at the end, ×1.000 [1 ± 0.05]",
    ]


def test_the_servers_histograms_are_read_by_what_came_of_the_requests() -> None:
    metrics = Metrics()
    metrics.request_duration.labels("/generate", "refused").observe(2.0)
    before = metrics.exposition().decode()
    for outcome, seconds in (("refused", 0.0015), ("error", 9.0), ("ok", 9.0)):
        metrics.request_duration.labels("/generate", outcome).observe(seconds)
    served = Served.between(before, metrics.exposition().decode())
    assert quantile(served.refused, 0.99) == 0.002
    assert served.health == {}


def test_resident_memory_is_read() -> None:
    assert overload.resident(os.getpid())["api"] > 1000
