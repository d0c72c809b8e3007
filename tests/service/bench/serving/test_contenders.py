from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unified_latents.service.bench.serving import report
from unified_latents.service.bench.serving.contenders import Subject, contender
from unified_latents.service.bench.serving.report import Plan
from unified_latents.service.settings import SHIPPED

SUBJECT = Subject(SHIPPED, report.SHIPPED_PICTURE, 1, Path(sys.executable))


def test_a_contender_that_cannot_start_says_why() -> None:
    nobody = Subject("nobody", report.SHIPPED_PICTURE, 1, Path(sys.executable))
    with (
        pytest.raises(RuntimeError, match=r"naive did not start:\n(.|\n)*nobody"),
        contender("naive", nobody),
    ):
        pass


def test_the_service_and_a_rival_do_the_same_work_under_every_load() -> None:
    lines: list[str] = []
    rows = report.run(SUBJECT, Plan(2, 1, 1, ("naive", "ours")), lines.append)
    assert [row.load for row in rows] == [
        *(["one client", "same plan", "mixed"] * 2),
        *(["mixed, open"] * 2),
    ]
    assert len(lines) == len(rows)
    assert len(report.ratios(rows)) == 4
