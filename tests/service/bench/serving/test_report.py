from __future__ import annotations

import json

from unified_latents.service.bench.serving.report import Row, as_json, ratios

ROWS = [
    Row("mixed", "naive", 2.0, 20.0, 1.0, 8.0, 3.0),
    Row("mixed", "ours", 4.0, 40.0, 0.5, 2.0, 1.5),
    Row("mixed", "naive", 1.0, 20.0, 1.0, 8.0, 3.0),
    Row("mixed", "ours", 4.0, 40.0, 0.5, 4.0, 1.5),
    Row("open", "ours", 4.0, 40.0, 0.5, 4.0, 1.5),
]


def test_ratios_pair_the_rounds() -> None:
    (line,) = ratios(ROWS)
    assert line.split() == [
        *("mixed", "ours", "/", "naive:", "throughput"),
        *("×3.00", "(2.00", "…", "4.00),"),
        *("p95", "×0.38", "(0.25", "…", "0.50)"),
    ]


def test_rows_are_written_for_other_programs() -> None:
    assert json.loads(as_json(ROWS))[1]["requests_per_second"] == 4.0
