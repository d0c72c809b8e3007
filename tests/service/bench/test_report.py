from __future__ import annotations

from pathlib import Path

import pytest

from unified_latents.service.bench import report


@pytest.mark.slow
def test_the_report_has_every_ratio(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing at its smallest: one thread, one round, one step, few probes."""
    monkeypatch.setattr(report, "usable_threads", lambda: 1)
    monkeypatch.setattr(report, "PROBES", 5)
    text = report.run("tiny", str(tiny), rounds=1, steps=1)
    lines = text.splitlines()
    for start, times in (
        ("diffusers DiT / base model", 1),
        ("service / bare loop", 4),
        ("/healthz under", 1),
        ("ready ", 1),
    ):
        assert len([line for line in lines if line.startswith(start)]) == times
    table = lines[-len(report.STAGES) * len(report.BATCHES) :]
    rows = [line.split()[:2] for line in table]
    assert rows == [[stage, str(n)] for stage in report.STAGES for n in report.BATCHES]
    assert all("×" in line for line in table)
