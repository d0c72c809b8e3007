"""Stage 2 on clips: the base model is shown the latent of what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.clips import stage1_of_clips, stage2_of_clips
from unified_latents.models import checkpoint
from unified_latents.models.base import BaseDraws
from unified_latents.models.clips import frames
from unified_latents.models.pixels import to_unit
from unified_latents.training import latents
from unified_latents.training.data.sets import DataSet, load
from unified_latents.training.recipes import Training
from unified_latents.training.runner import Options, run
from unified_latents.training.stage1 import Stage1
from unified_latents.training.stage2 import Stage2, drop_context


@pytest.fixture
def clips(clips_folder: Path) -> DataSet:
    return load(clips_folder)


@pytest.fixture
def stage(clips: DataSet, training: Training, tmp_path: Path) -> Stage2:
    first = Stage1.build(stage1_of_clips(training), clips)
    first.save(first.objective, tmp_path / "stage1", {})
    start = checkpoint.load(tmp_path / "stage1")
    return Stage2.build(stage2_of_clips(training), clips, start, tmp_path / "run")


def test_every_clips_context_is_that_of_its_known_frames(
    stage: Stage2, clips: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "_CLIPS", 5)
    found = latents.encode(clips.train, stage.start.unified, torch.device("cpu"))
    x = to_unit(clips.train.batch([12]).image)
    with torch.no_grad():
        still = stage.start.unified.encoder(frames.held(x[:, :, :1], 4))
    torch.testing.assert_close(found.context[0][12:13, :-1], still)
    assert found.context[0].shape == (14, 5, 2, 4, 4)


def test_the_second_time_contexts_are_read(stage: Stage2, clips: DataSet, tmp_path: Path) -> None:
    digest, cpu = stage.start.manifest.digest, torch.device("cpu")
    again = latents.cached(tmp_path / "run", "train", clips.train, stage.start.unified, digest, cpu)
    assert torch.equal(again.context[0], stage.train.context[0])
    assert len(again.context) == 1


def test_contexts_are_forgotten_at_their_rate() -> None:
    noise = torch.Generator().manual_seed(0)
    (kept,) = drop_context((torch.ones(20_000, 2, 1, 1, 1),), 0.2, noise)
    assert kept.mean().item() == pytest.approx(0.8, abs=0.01)
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert drop_context((), 0.2, noise) == ()


def test_it_trains_on_clips_with_their_own_contexts(stage: Stage2) -> None:
    stage = replace(stage, recipe=replace(stage.recipe, context_dropout=0.0))
    inputs = stage.inputs(2)
    for z, context in zip(inputs.z_clean, inputs.context[0], strict=True):
        places = [i for i, other in enumerate(stage.train.z_clean) if torch.equal(z, other)]
        assert any(torch.equal(context, stage.train.context[0][i]) for i in places)
    draws = BaseDraws(**inputs.draws)
    model = stage.objective.model
    torch.nn.init.normal_(model.get_parameter("output.projection.weight"))
    with torch.no_grad():
        known = model.losses(inputs.z_clean, inputs.label, draws, *inputs.context)
        nothing = model.losses(inputs.z_clean, inputs.label, draws)
        assert torch.equal(
            stage.objective(inputs).loss, known.weighted.mean() / inputs.z_clean[0].numel()
        )
    assert not torch.allclose(known.weighted, nothing.weighted)


def test_a_run_ends_in_a_checkpoint_that_goes_on_from_known_frames(
    stage: Stage2, tmp_path: Path
) -> None:
    assert run(stage, stage.recipe.training, Options(tmp_path / "run")) == 10
    loaded = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert loaded.base is not None
    assert loaded.base.config.context == (5,)
    assert checkpoint.check_canary(loaded).ok
    with Image.open(next((tmp_path / "run" / "grids").iterdir())) as grid:
        assert grid.size == (4 * 64, 4 * 3 * 64)
