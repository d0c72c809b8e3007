from __future__ import annotations

import os
import sys
from pathlib import Path

from unified_latents.service.bench.serving import overload, report
from unified_latents.service.bench.serving.contenders import Subject
from unified_latents.service.bench.serving.overload import Outcome, Watch
from unified_latents.service.settings import SHIPPED


def test_a_real_service_is_exceeded() -> None:
    subject = Subject(SHIPPED, report.SHIPPED_PICTURE, 1, Path(sys.executable))
    lines: list[str] = []
    overload.run(subject, 2, 1, lines.append)
    assert lines[0].startswith("capacity ")
    assert any(line.startswith("engine: memory ×") for line in lines)


def test_the_report_counts_what_was_late_and_what_was_refused() -> None:
    outcomes = [
        Outcome(200, 1.0, False),
        Outcome(200, overload.DEADLINE + 1, False),
        Outcome(504, overload.DEADLINE, False),
        Outcome(503, 0.01, True),
        Outcome(503, 0.01, False),
    ]
    watch = Watch(
        [0.001] * 100, [{"api": 100, "engine": 50}] * 4 + [{"api": 110, "engine": 50}] * 4
    )
    lines = overload.report(outcomes, watch, {0.002: 1.0, 0.005: 2.0})
    assert "2 × 200, 2 × 503, 1 × 504" in lines[0]
    assert "2 answered, 2 after their deadline" in lines[1]
    assert "refused: 2, all headers on 1; p99 ≤ 5 ms" in lines[3]
    assert lines[5:] == ["api: memory ×1.100", "engine: memory ×1.000"]


def test_resident_memory_is_read() -> None:
    assert overload.resident(os.getpid())["api"] > 1000
