from __future__ import annotations

import math
from pathlib import Path

from prometheus_client import generate_latest

from unified_latents.service.bench.live import buckets, health, quantile, server
from unified_latents.service.metrics import Metrics


def test_a_quantile_is_the_edge_that_enough_answers_kept() -> None:
    metrics = Metrics()
    for seconds in [0.004] * 98 + [0.03, 7.0]:
        metrics.request_duration.labels("/healthz", "ok").observe(seconds)
    metrics.request_duration.labels("/generate", "ok").observe(100)
    counts = buckets(generate_latest(metrics.registry).decode())
    assert counts[math.inf] == 100
    assert [quantile(counts, share) for share in (0.5, 0.98, 0.99, 1.0)] == [0.005, 0.005, 0.05, 10]
    assert math.isnan(quantile({}, 0.5))


def test_a_real_server_is_measured(tiny: Path) -> None:
    with server("tiny", str(tiny), 1) as live:
        lines = health(live, probes=5, steps=1)
        now, peak = live.memory()
    assert "(5 probes" in lines[0]
    assert "nan" not in "".join(lines)
    assert 0 < now <= peak
    assert live.start_seconds > 0
