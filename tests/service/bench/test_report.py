from __future__ import annotations

from pathlib import Path

import pytest

from unified_latents.service.bench import report


@pytest.mark.slow
def test_the_report_has_every_ratio(tiny: Path) -> None:
    """The real thing at its smallest: three processes, one round, one step."""
    text = report.run("tiny", str(tiny), rounds=1, steps=1)
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("service / bare loop")] == lines[1:3]
    rows = [line.split()[:2] for line in lines[5:]]
    assert rows == [[stage, str(n)] for stage in report.STAGES for n in report.BATCHES]
    assert all("×" in line for line in lines[5:])
