"""Stage 1 on clips of four frames, of which one may be known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.clips import stage1_of_clips
from unified_latents.models import checkpoint
from unified_latents.training.data.sets import DataSet, load
from unified_latents.training.recipes import Training
from unified_latents.training.runner import Options, run
from unified_latents.training.stage1 import Stage1


@pytest.fixture
def clips(clips_folder: Path) -> DataSet:
    return load(clips_folder)


@pytest.fixture
def stage(clips: DataSet, training: Training) -> Stage1:
    return Stage1.build(stage1_of_clips(training), clips)


def test_bits_are_of_every_pixel_of_every_frame(stage: Stage1) -> None:
    inputs = stage.inputs(0)
    assert inputs.image.shape == (6, 1, 4, 16, 16)
    terms = stage.objective(inputs)
    terms.loss.backward()
    rate = terms.figures["bits_per_pixel"].item() * 4 * 16 * 16 * math.log(2)
    # at the start z is small and v̂ is zero, so that every dimension costs about ½ ln(e⁵) nats
    assert 0 < rate < 4 * math.prod(stage.recipe.model.latent_shape)


def test_the_grid_shows_clips_over_reconstructions(stage: Stage1, tmp_path: Path) -> None:
    stage.grid(stage.objective.eval(), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        grid = np.asarray(image)
    assert grid.shape == (8 * 64, 4 * 64)
    # the first clip's frames from left to right, in black, dark, middle and bright
    assert grid[32, 32::64].tolist() == [0, 40, 80, 120]


def test_a_run_learns_and_its_checkpoint_is_one_of_clips(stage: Stage1, tmp_path: Path) -> None:
    assert run(stage, stage.recipe.training, Options(tmp_path / "run")) == 10
    loaded = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert loaded.unified.config.known_frames == 1
    assert checkpoint.check_canary(loaded).ok


def test_held_out_clips_fit_into_memory(stage: Stage1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unified_latents.training.stage1._HELD_OUT_PIXELS", 3 * 4 * 16 * 16)
    seen = []
    stage.objective.model.encoder.register_forward_hook(lambda *a: seen.append(len(a[-1])))
    stage.held_out(stage.objective.eval())
    assert seen == [3]
