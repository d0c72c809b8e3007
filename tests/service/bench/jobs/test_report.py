from __future__ import annotations

import math

from unified_latents.service.bench.jobs import report
from unified_latents.service.bench.jobs.backlog import Backlog
from unified_latents.service.bench.jobs.overhead import Idle, Real


def test_overhead_is_a_share_of_a_long_job() -> None:
    rows = report.idle_rows(Idle((0.1, 0.3, 0.2), 50.0))
    assert rows[0].measured == "50.0"
    assert rows[1].measured == "200 ms (at most 300), 2.00%"
    assert rows[1].kept
    assert not report.idle_rows(Idle((0.4,), 50.0))[1].kept
    rows = report.real_rows([Real(10.0, 0.4, 8.0), Real(10.0, 0.5, 10.0), Real(10.0, 0.3, 9.0)])
    assert rows[1].measured == "400 ms, 4.00%"
    assert rows[1].line().endswith("MISSED")
    assert rows[2].measured == "×1.111 (1.000 … 1.250)"


def test_every_target_of_a_long_queue_can_be_kept_and_missed() -> None:
    quick = {0.005: 99.0, 0.02: 100.0, math.inf: 100.0}
    slow = {0.005: 90.0, 0.02: 98.0, 0.05: 100.0, math.inf: 100.0}
    good = Backlog(["a"], quick, 9.0, quick, 2000.0, quick, ["a"], [1], [1])
    bad = Backlog(["a", "b"], slow, 9.0, slow, 2048.0, slow, ["a", "a"], [1], [2])
    aimed = [row.kept for row in report.backlog_rows(good) if row.target]
    assert aimed == [True] * 4
    assert [row.kept for row in report.backlog_rows(bad) if row.target] == [False] * 4
    assert "≤ 5 ms, ≤ 50 ms" in report.backlog_rows(bad)[2].line()
    assert "1 twice, 1 missing" in report.backlog_rows(bad)[4].line()
