from __future__ import annotations

from pathlib import Path

import pytest

from unified_latents.service.engine.forecast import Key
from unified_latents.service.stepper.costs import CostModel

BASE = Key("m", True, "base")


def test_a_bucket_holds_a_running_mean_of_rows_and_seconds() -> None:
    costs = CostModel("n")
    for rows, seconds in ((5, 1.0), (7, 3.0)):
        costs.observe(BASE, rows, seconds)
    (cost,) = costs.message.costs
    assert (cost.bucket, cost.rows, cost.seconds) == (8, 6.0, 2.0)


def test_it_follows_a_machine_that_has_become_slower() -> None:
    costs = CostModel("n")
    for seconds in [1.0] * 50 + [2.0] * 50:
        costs.observe(BASE, 1, seconds)
    assert costs.table.seconds(BASE, 1) == pytest.approx(2.0, rel=0.02)


def test_one_paused_pass_is_not_believed() -> None:
    costs = CostModel("n")
    for seconds in [1.0] * 20 + [1000.0]:
        costs.observe(BASE, 1, seconds)
    assert (costs.table.seconds(BASE, 1) or 0) < 1.5


def test_what_was_learned_outlives_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "costs.json"
    first = CostModel("n", file)
    first.observe(BASE, 3, 0.5)
    first.save()
    assert CostModel("n", file).message.costs == first.message.costs
    assert CostModel("another machine", file).message.costs == ()
    assert [entry.name for entry in file.parent.iterdir()] == ["costs.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"numerics": "n"}',
        b'{"numerics": "n", "costs": [{"model": "m"}]}',
        b'{"numerics":"n","costs":[{"model":"m","strict":true,"stage":"base","bucket":1,'
        b'"rows":0,"seconds":1}]}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_bytes(content)
    costs = CostModel("n", file)
    assert costs.message.costs == ()
    costs.observe(BASE, 1, 0.5)
    costs.save()
    assert CostModel("n", file).message.costs == costs.message.costs


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    costs = CostModel("n", tmp_path / "cache" / "costs.json")
    costs.observe(BASE, 1, 0.5)
    costs.save()
    assert costs.table.seconds(BASE, 1) == 0.5


def test_forecasts_that_were_off_are_corrected_within_bounds() -> None:
    costs = CostModel("n")
    for _ in range(100):
        costs.learn(1.0, 1.5)
    assert costs.message.bias == pytest.approx(1.5, rel=0.01)
    for _ in range(100):
        costs.learn(1.0, 1e9)
    assert costs.bias <= 4.0
