"""Parts and precisions of a step: the same run, told by the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from unified_latents.models import checkpoint
from unified_latents.training import loop, runner
from unified_latents.training.data.sets import DataSet
from unified_latents.training.recipes import (
    Optimiser,
    Overrides,
    Stage1Recipe,
    Stage2Recipe,
    Training,
)
from unified_latents.training.stage1 import Stage1
from unified_latents.training.stage2 import Stage2


@pytest.fixture
def whole(training: Training) -> Training:
    return replace(training, steps=4, batch=8, optimiser=Optimiser(warmup=0))


def losses(task: runner.Stage, training: Training, out: Path) -> torch.Tensor:
    trainer = loop.prepare(runner.accelerate(training, out), task, training)
    reports = list(loop.train(trainer, task, training, 0))
    assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())
    return torch.stack([report.figures["loss"] for report in reports])


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [(Overrides(accumulation=2), 1e-4), (Overrides(precision="bf16"), 2e-2)],
    ids=["accumulation", "bf16"],
)
@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_in_parts_or_in_bf16_is_near_the_whole_in_fp32(
    change: Overrides,
    tolerance: float,
    stage: int,
    whole: Training,
    stage1: Stage1Recipe,
    stage2: Stage2Recipe,
    pictures: DataSet,
    tmp_path: Path,
) -> None:
    one = Stage1.build(replace(stage1, training=whole), pictures)
    one.save(one.objective, tmp_path / "one", {})
    start = checkpoint.load(tmp_path / "one")

    def build() -> runner.Stage:
        if stage == 1:
            return Stage1.build(replace(stage1, training=whole), pictures)
        return Stage2.build(replace(stage2, training=whole), pictures, start, tmp_path)

    plain = losses(build(), whole, tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    changed = losses(build(), change.of(whole), tmp_path)
    assert changed.isfinite().all()
    torch.testing.assert_close(changed, plain, rtol=tolerance, atol=0)
    assert not torch.equal(changed, plain), "the option reached the step"
