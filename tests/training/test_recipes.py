from __future__ import annotations

import math
from dataclasses import replace

import pytest

from unified_latents.training import recipes
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.recipes import EncoderWarmup, Optimiser, Stage1Recipe, Training


def test_the_rate_warms_up_and_falls_to_its_share() -> None:
    optimiser = Optimiser(rate=1e-3, warmup=10, final=0.05)
    assert optimiser.rate_at(0, 1000) == pytest.approx(1e-4)
    assert optimiser.rate_at(9, 1000) == pytest.approx(1e-3, rel=1e-3)
    assert optimiser.rate_at(500, 1000) == pytest.approx(1e-3 * (0.05 + 0.95 / 2))
    assert optimiser.rate_at(1000, 1000) == pytest.approx(5e-5)
    assert Optimiser(rate=1e-3, warmup=0).rate_at(0, 10) == 1e-3


def test_the_encoder_hears_nothing_then_more_then_all() -> None:
    warmup = EncoderWarmup(hold=300, ramp=1500)
    assert [warmup.weight(step) for step in (0, 299, 300, 1050, 1800, 9999)] == [0, 0, 0, 0.5, 1, 1]
    assert EncoderWarmup(0, 0).weight(0) == 1


@pytest.mark.parametrize("field", ["steps", "batch", "accumulation", "log_every", "grid_every"])
def test_counts_below_one_are_refused_by_name(field: str, training: Training) -> None:
    with pytest.raises(TrainingError, match=f"{field} must be at least 1, got 0"):
        replace(training, **{field: 0})  # type: ignore[arg-type]


def test_looks_fall_on_whole_windows(training: Training) -> None:
    with pytest.raises(TrainingError, match="grid_every 7 is no multiple of log_every 3"):
        replace(training, grid_every=7)


def test_a_batch_that_does_not_accumulate_is_refused(training: Training) -> None:
    with pytest.raises(TrainingError, match="6 does not split into 4"):
        replace(training, accumulation=4)


@pytest.mark.parametrize("name", recipes.STAGE1)
def test_a_recipe_fits_its_images_and_says_so_of_others(name: str, pictures: DataSet) -> None:
    side = 64 if name == "small_64" else 32
    frames = 16 if name == "moving_sprites" else None
    card = replace(pictures.card, image_size=(side, side), frames=frames)
    recipe = recipes.STAGE1[name](card)
    assert recipe.model.image_shape == (1, *card.size)
    with pytest.raises(TrainingError, match=rf"{side}, {side}\).*\(1, 16, 16\)"):
        recipes.STAGE1[name](pictures.card)


def test_a_base_model_has_the_sets_classes(pictures: DataSet) -> None:
    card = replace(pictures.card, image_size=(32, 32))
    unified = recipes.small_32(card).model
    for make in (recipes.fashion_base, recipes.small_base):
        recipe = make(card, unified)
        assert recipe.model.classes == 3
        assert recipe.model.latent_shape == unified.latent_shape


def test_the_loss_factor_is_the_only_thing_that_changes(stage1: Stage1Recipe) -> None:
    louder = recipes.with_bitrate(stage1, 7.0, None)
    assert louder.model.loss_factor == 7
    assert replace(louder, model=replace(louder.model, loss_factor=2.0)) == stage1


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_loss_factor_out_of_range_is_refused(stage1: Stage1Recipe, factor: float) -> None:
    with pytest.raises(TrainingError, match="loss factor"):
        recipes.with_bitrate(stage1, factor, None)


def test_a_variant_is_named_or_refused(stage1: Stage1Recipe) -> None:
    assert recipes.with_variant(stage1, "unified") == stage1
    detached = recipes.with_variant(stage1, "detached-prior")
    assert (detached.variant, detached.defaults) == ("detached-prior", stage1.defaults)
    assert recipes.with_variant(stage1, "mse-decoder").defaults.decode_steps == 1
    with pytest.raises(TrainingError, match="no variant 'vae'; there are: unified, learned"):
        recipes.with_variant(stage1, "vae")
