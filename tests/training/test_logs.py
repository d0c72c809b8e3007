from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unified_latents.training.logs import Bar, JsonLines, Meter, Stopwatch
from unified_latents.training.loop import StepReport


def _report(step: int, loss: float) -> StepReport:
    return StepReport(step, {"loss": torch.tensor(loss)}, torch.tensor(2 * loss), 1e-3, 4)


def test_a_meter_reads_means_and_starts_again() -> None:
    meter = Meter()
    for step, loss in enumerate((1.0, 2.0, 6.0)):
        meter.add(_report(step, loss))
    assert meter.read() == {"loss": 3.0, "grad_norm": 6.0}
    meter.add(_report(3, 5.0))
    assert meter.read()["loss"] == 5.0


def test_an_unfinished_window_survives_its_state() -> None:
    meter, resumed = Meter(), Meter()
    meter.add(_report(0, 1.0))
    resumed.load_state_dict(meter.state_dict())
    resumed.add(_report(1, 3.0))
    assert resumed.read()["loss"] == 2.0


def test_lines_after_the_snapshot_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = JsonLines(path, 0)
    for step in (10, 20, 30):
        lines.write({"step": step})
    lines.close()
    with path.open("a") as file:
        file.write('{"step": 4')
    again = JsonLines(path, 20)
    again.write({"step": 30, "again": True})
    again.close()
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    assert steps == [{"step": 10}, {"step": 20}, {"step": 30, "again": True}]


def test_a_stopwatch_counts_images_since_it_was_read() -> None:
    watch = Stopwatch(flops_per_image=1e6, peak=1e12)
    watch.add(100)
    first = watch.read()
    assert first["images_per_second"] > 0
    assert watch.read() == {"images_per_second": 0.0, "mfu": 0.0}


def test_off_a_terminal_a_window_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("stage 1", steps=10, done=2)
    bar.step(3)
    bar.figures(4, {"loss": 0.51234, "images_per_second": 60.0})
    bar.close()
    line = capsys.readouterr().err.strip()
    assert line.startswith("stage 1 4/10  loss 0.5123  images_per_second 60  ETA")


def test_another_rank_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("stage 1", steps=10, done=0, quiet=True)
    bar.figures(4, {"loss": 1.0})
    bar.close()
    assert capsys.readouterr().err.strip() == ""
