from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from unified_latents.models import checkpoint
from unified_latents.models.pixels import to_unit
from unified_latents.models.unified import Draws
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.recipes import EncoderWarmup, Stage1Recipe, with_variant
from unified_latents.training.stage1 import Stage1, bits_per_pixel


@pytest.fixture
def run(stage1: Stage1Recipe, pictures: DataSet) -> Stage1:
    return Stage1.build(stage1, pictures)


def test_a_constant_divides_both_terms(run: Stage1) -> None:
    inputs = run.inputs(4)
    terms = run.objective(inputs)
    losses = run.objective.model.losses(to_unit(inputs.image), Draws(**inputs.draws))
    scale = 16 * 16 * math.log(2)
    torch.testing.assert_close(terms.figures["bits_per_pixel"], losses.latent.mean() / scale)
    torch.testing.assert_close(terms.figures["decoder_loss"], losses.image.mean() / scale)
    torch.testing.assert_close(terms.loss, (losses.latent + losses.image).mean() / scale)


def test_bits_a_pixel_of_one_bit_a_pixel() -> None:
    class Config:
        size = (4, 8)

    assert bits_per_pixel(Config, torch.tensor(32 * math.log(2))) == pytest.approx(1)  # type: ignore[arg-type]


def test_inputs_are_a_function_of_seed_and_step(run: Stage1, stage1: Stage1Recipe) -> None:
    again = Stage1.build(stage1, run.data)
    one, other, later = run.inputs(3), again.inputs(3), run.inputs(4)
    assert torch.equal(one.image, other.image)
    assert all(torch.equal(one.draws[name], other.draws[name]) for name in one.draws)
    assert not torch.equal(one.draws["eps_z"], later.draws["eps_z"])
    reseeded = replace(stage1, training=replace(stage1.training, seed=8))
    assert not torch.equal(Stage1.build(reseeded, run.data).inputs(3).image, one.image)


def test_weights_are_a_function_of_the_seed(run: Stage1, stage1: Stage1Recipe) -> None:
    torch.manual_seed(99)
    again = Stage1.build(stage1, run.data).objective.state_dict()
    assert all(
        torch.equal(value, again[name]) for name, value in run.objective.state_dict().items()
    )


def test_the_warmup_touches_only_the_encoders_gradient(run: Stage1) -> None:
    inputs = run.inputs(0)
    weights = [run.inputs(step).encoder_weight for step in (0, 2, 4, 6)]
    assert torch.stack(weights).tolist() == [[each] * 6 for each in (0, 0, 0.5, 1)]

    def gradients(weight: float) -> dict[str, torch.Tensor]:
        run.objective.zero_grad()
        run.objective(inputs._replace(encoder_weight=torch.full((6,), weight))).loss.backward()
        return {
            n: p.grad.clone() for n, p in run.objective.named_parameters() if p.grad is not None
        }

    held, full = gradients(0.0), gradients(1.0)
    for name in full:
        if "encoder" not in name:
            torch.testing.assert_close(held[name], full[name])
    different = [n for n in full if not torch.allclose(held[n], full[n])]
    assert different
    weights = [torch.full((6,), w) for w in (0.0, 1.0)]
    assert torch.equal(*(run.objective(inputs._replace(encoder_weight=w)).loss for w in weights))


def test_a_checkpoint_can_be_gone_on_from(run: Stage1, tmp_path: Path) -> None:
    run.save(run.objective, tmp_path / "one", {"loss": 1.0})
    again = Stage1.build(run.recipe, run.data, tmp_path / "one")
    assert again.recipe.encoder_warmup == EncoderWarmup(0, 0)
    assert again.init == checkpoint.load(tmp_path / "one").manifest.digest
    for name, value in run.objective.state_dict().items():
        assert torch.equal(again.objective.state_dict()[name], value)
    assert again.describe() != run.describe()


def test_a_checkpoint_of_another_shape_is_refused(run: Stage1, tmp_path: Path) -> None:
    run.save(run.objective, tmp_path / "one", {})
    wider = replace(run.recipe, model=replace(run.recipe.model, latent_channels=8))
    with pytest.raises(TrainingError, match="latent_channels is 4 there, 8 in the recipe"):
        Stage1.build(wider, run.data, tmp_path / "one")


def test_a_checkpoint_names_its_data_and_recipe(run: Stage1, tmp_path: Path) -> None:
    run.save(run.objective, tmp_path / "one", {"loss": 1.5})
    card = checkpoint.load(tmp_path / "one").card
    assert card.labels == run.data.card.labels
    assert card.metrics == {"stage_1": {"loss": 1.5}}
    assert card.recipe["stage_1"]["recipe"]["training"]["batch"] == 6


def test_the_grid_shows_originals_over_reconstructions(run: Stage1, tmp_path: Path) -> None:
    run.grid(run.objective.eval(), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (8 * 64, 2 * 64)
        corner = image.getpixel((0, 0))
    assert corner == run.data.test.batch([0]).image[0, 0, 0, 0].item()


def test_held_out_figures_repeat(run: Stage1) -> None:
    average = run.objective.eval()
    figures = run.held_out(average)
    assert figures == run.held_out(average)
    assert set(figures) == {"test_loss", "test_bits_per_pixel", "test_decoder_loss"}


@pytest.mark.parametrize("name", ["learned-variance", "detached-prior"])
def test_a_variant_ends_in_a_checkpoint_like_any_other(
    name: str, stage1: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    run = Stage1.build(with_variant(stage1, name), pictures)
    terms = run.objective(run.inputs(0))
    extra = terms.loss - terms.figures["bits_per_pixel"] - terms.figures["decoder_loss"]
    assert (extra.item() > 1e-6) == (name == "detached-prior")
    run.grid(run.objective.eval(), tmp_path / "grid.png")
    run.save(run.objective, tmp_path / "run", {})
    loaded = checkpoint.load(tmp_path / "run")
    assert checkpoint.check_canary(loaded).ok
    assert loaded.card.recipe["stage_1"]["recipe"]["variant"] == name


def test_a_learned_variance_cannot_start_from_an_encoder_without(
    run: Stage1, stage1: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    run.save(run.objective, tmp_path / "first", {})
    with pytest.raises(TrainingError, match="no variances to start from"):
        Stage1.build(with_variant(stage1, "learned-variance"), pictures, tmp_path / "first")
