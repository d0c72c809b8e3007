from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unified_latents.training import runner
from unified_latents.training.data.sets import DataSet
from unified_latents.training.flops import forward_flops
from unified_latents.training.journal import Journal, training_flops
from unified_latents.training.recipes import Stage1Recipe
from unified_latents.training.stage1 import Stage1


def test_a_window_reaches_the_log_and_tensorboard(
    stage1: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    stage = Stage1.build(stage1, pictures)
    accelerator = runner.accelerate(stage1.training, tmp_path)
    journal = Journal.open(accelerator, stage, stage1.training, tmp_path, 0)
    journal.window(3, 1e-3, {"loss": 2.5})
    journal.close()
    [line] = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (line["step"], line["loss"], line["learning_rate"]) == (3, 2.5, 1e-3)
    assert set(line["clock"]) == {"images_per_second", "mfu"}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [scalar] = events.Scalars("loss")
    assert (scalar.step, scalar.value) == (3, 2.5)


def test_training_is_three_times_forward_an_image(stage1: Stage1Recipe, pictures: DataSet) -> None:
    stage = Stage1.build(stage1, pictures)
    forward = forward_flops(lambda: stage.objective(stage.inputs(0)))
    assert training_flops(stage) == 3 * forward / stage1.training.batch
    wider = replace(stage1, training=replace(stage1.training, batch=12))
    of_wider = training_flops(Stage1.build(wider, pictures))
    assert of_wider == pytest.approx(training_flops(stage), rel=0.01)
