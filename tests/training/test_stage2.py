from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from unified_latents.models import checkpoint
from unified_latents.models.base import BaseDraws
from unified_latents.models.checkpoint import Checkpoint
from unified_latents.models.diffusion import diffuse, kl_to_standard_normal
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.recipes import Stage1Recipe, Stage2Recipe
from unified_latents.training.stage1 import Stage1
from unified_latents.training.stage2 import Stage2, drop_labels


@pytest.fixture
def start(stage1: Stage1Recipe, pictures: DataSet, tmp_path: Path) -> Checkpoint:
    run = Stage1.build(stage1, pictures)
    run.save(run.objective, tmp_path / "stage1", {"loss": 2.0})
    return checkpoint.load(tmp_path / "stage1")


@pytest.fixture
def run(stage2: Stage2Recipe, pictures: DataSet, start: Checkpoint, tmp_path: Path) -> Stage2:
    return Stage2.build(stage2, pictures, start, tmp_path / "run")


def test_it_trains_on_encoded_pictures_with_their_labels(run: Stage2) -> None:
    inputs = run.inputs(2)
    places = [
        next(i for i, z in enumerate(run.train.z_clean) if torch.equal(z, row))
        for row in inputs.z_clean
    ]
    kept = inputs.label != run.recipe.model.classes
    assert kept.any()
    assert torch.equal(inputs.label[kept], run.train.label[places][kept])


def test_no_noise_but_the_levels_own_is_added(run: Stage2) -> None:
    """Var(z_t | z_clean) = σ_t², and the mean is α_t z_clean, at every level."""
    config, n = run.recipe.model, 4000
    z_clean = run.train.z_clean[:1]
    for level in (4.9, 0.0, -9.0):
        draws = BaseDraws.sample(config, n, torch.Generator().manual_seed(1))
        z_t = diffuse(z_clean.expand(n, -1, -1, -1), draws.eps, torch.full((n,), level))
        alpha, variance = torch.sigmoid(torch.tensor(level)).sqrt(), 1 / (1 + math.exp(level))
        assert z_t.var(0).mean().item() == pytest.approx(variance, rel=0.01)
        torch.testing.assert_close(z_t.mean(0), alpha * z_clean[0], atol=0.07, rtol=0)
    first, second = run.inputs(0), run.inputs(7)
    cached = {tuple(z.flatten().tolist()) for z in run.train.z_clean}
    for inputs in (first, second):
        assert {tuple(z.flatten().tolist()) for z in inputs.z_clean} <= cached


def test_labels_drop_to_the_null_class_at_their_rate() -> None:
    label = torch.arange(30_000) % 3
    dropped = drop_labels(label, 3, 0.1, torch.Generator().manual_seed(0))
    null = dropped == 3
    assert null.double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped[~null], label[~null])
    assert torch.equal(drop_labels(label, 3, 0.0, torch.Generator()), label)


def test_the_bound_is_in_bits_a_pixel_with_kl_1(run: Stage2) -> None:
    inputs = run.inputs(1)
    terms = run.objective(inputs)
    losses = run.objective.model.losses(inputs.z_clean, inputs.label, BaseDraws(**inputs.draws))
    nats = (losses.bound + kl_to_standard_normal(inputs.z_clean, -10.0)).mean()
    torch.testing.assert_close(terms.figures["bits_per_pixel"], nats / math.log(2) / 256)
    torch.testing.assert_close(terms.loss, losses.weighted.mean() / 64)


def test_held_out_figures_repeat(run: Stage2) -> None:
    average = run.objective.eval()
    figures = run.held_out(average)
    assert figures == run.held_out(average)
    assert set(figures) == {"test_loss", "test_bits_per_pixel"}


def test_its_checkpoint_is_stage_1_and_the_base_model(
    run: Stage2, start: Checkpoint, tmp_path: Path
) -> None:
    run.save(run.objective, tmp_path / "two", {"loss": 3.0})
    both = checkpoint.load(tmp_path / "two")
    assert both.base is not None
    assert both.base.config == run.recipe.model
    assert both.manifest.latent_space == start.manifest.latent_space
    for name, value in start.unified.state_dict().items():
        assert torch.equal(both.unified.state_dict()[name], value)
    assert both.card.defaults.guidance == 1.5
    assert both.card.metrics == {"stage_1": {"loss": 2.0}, "stage_2": {"loss": 3.0}}
    assert set(both.card.recipe) == {"stage_1", "stage_2"}
    assert both.card.labels == ("dark", "middle", "bright")


def test_a_base_model_can_be_gone_on_from(
    run: Stage2, stage2: Stage2Recipe, start: Checkpoint, tmp_path: Path
) -> None:
    run.save(run.objective, tmp_path / "two", {})
    again = Stage2.build(stage2, run.data, start, tmp_path / "again", tmp_path / "two")
    for name, value in run.objective.state_dict().items():
        assert torch.equal(again.objective.state_dict()[name], value)
    assert again.describe()["init"] == checkpoint.load(tmp_path / "two").manifest.digest


def test_a_start_that_does_not_fit_is_refused(
    run: Stage2, stage2: Stage2Recipe, start: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="holds no base model"):
        Stage2.build(stage2, run.data, start, tmp_path / "run", tmp_path / "stage1")
    run.save(run.objective, tmp_path / "two", {})
    more = replace(stage2, model=replace(stage2.model, classes=5))
    with pytest.raises(TrainingError, match="another shape"):
        Stage2.build(more, run.data, start, tmp_path / "run", tmp_path / "two")


def test_the_grid_has_a_column_a_class(run: Stage2, tmp_path: Path) -> None:
    run.grid(run.objective.eval(), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (3 * 64, 4 * 64)
