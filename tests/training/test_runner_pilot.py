"""Whole runs under the pilot: a planted collapse is stopped, a target steers, both resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import interrupt_at_look
from unified_latents.models import checkpoint
from unified_latents.training import runner
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.recipes import EncoderWarmup, Optimiser, Stage1Recipe, with_bitrate
from unified_latents.training.runner import Options
from unified_latents.training.stage1 import Stage1


@pytest.fixture
def brisk(stage1: Stage1Recipe) -> Stage1Recipe:
    """2 000 steps that learn fast enough to show in a hundred what becomes of the latent."""
    training = replace(
        stage1.training,
        steps=2000,
        batch=16,
        log_every=20,
        grid_every=2000,
        optimiser=Optimiser(rate=3e-3, warmup=0),
    )
    return replace(stage1, training=training, encoder_warmup=EncoderWarmup(0, 0))


def lines(out: Path) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "clock"} for line in read]


@pytest.mark.slow
def test_a_planted_collapse_is_caught_before_a_tenth_of_the_run(
    brisk: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    planted = with_bitrate(brisk, 1.5, 0.0)
    with pytest.raises(TrainingError, match=r"collapsed by step 1\d\d: .*--loss-factor"):
        runner.run(Stage1.build(planted, pictures), planted.training, Options(tmp_path))
    assert lines(tmp_path)[-1]["step"] < planted.training.steps / 10


@pytest.mark.slow
def test_a_healthy_run_is_left_alone(
    brisk: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    healthy = with_bitrate(brisk, 20.0, 3.0)
    training = replace(healthy.training, steps=160)
    healthy = replace(healthy, training=training)
    assert runner.run(Stage1.build(healthy, pictures), training, Options(tmp_path)) == 160


@pytest.mark.slow
def test_a_target_moves_the_loss_factor_and_resumes_exactly(
    brisk: Stage1Recipe, pictures: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(brisk.training, steps=90, log_every=10, grid_every=50)
    recipe = replace(with_bitrate(brisk, 20.0, 3.0), training=training, target_bits=0.05)

    def train(out: Path) -> int:
        return runner.run(Stage1.build(recipe, pictures), training, Options(out))

    assert train(tmp_path / "whole") == 90
    with monkeypatch.context() as patch:
        interrupt_at_look(patch, Stage1)
        assert train(tmp_path / "broken") == 50
    assert train(tmp_path / "broken") == 90
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    factors = [line["loss_factor"] for line in lines(tmp_path / "whole")]
    assert factors[0] == pytest.approx(20.0)
    assert factors[5] < factors[3] < factors[1] < 20
    assert len(set(factors[5:])) == 1, "frozen for the last third"
    saved = checkpoint.load(tmp_path / "broken" / "checkpoint")
    assert saved.unified.config.loss_factor == factors[-1]
    assert saved.card.metrics["stage_1"]["loss_factor"] == factors[-1]
    assert saved.card.recipe["stage_1"]["recipe"]["target_bits"] == 0.05
