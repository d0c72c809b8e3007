from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unified_latents.models.config import UnifiedConfig
from unified_latents.training.data.sets import load
from unified_latents.training.evaluation import classifier, evaluate, figures, study
from unified_latents.training.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    ClassifierRecipe,
)
from unified_latents.training.evaluation.distances import frechet, kernel, moments
from unified_latents.training.evaluation.study import LESSONS, Study

SaveTiny = Callable[[str, bool], Path]
BITS = math.log(2) * 256


@pytest.fixture
def measured() -> dict[str, Tensor]:
    """Four pictures at two levels."""
    generator = torch.Generator().manual_seed(0)
    names = ("prior", "base", "base_null", "decoder")
    made = {name: 9 + torch.rand(4, 2, generator=generator).double() for name in names}
    log_snr = torch.tensor([[4.5, -9.5]]).double().expand(4, 2)
    return made | {"log_snr_z": log_snr, "log_snr_x": log_snr, "kl_1": torch.ones(4).double()}


@pytest.fixture
def finished(shapes: Path, save_tiny: SaveTiny, tmp_path: Path) -> Study:
    made = evaluate.plan(
        save_tiny("tiny", True), shapes, tmp_path / "out", images=6, generated=8, levels=1, batch=4
    )
    list(evaluate.run(made))
    torch.manual_seed(0)
    judge = tmp_path / "judge.safetensors"
    config = replace(ClassifierConfig.of(load(shapes).card), features=4)
    classifier.save(judge, Classifier(config))
    planned = study.plan(made, judge, ClassifierRecipe(epochs=1, batch=20))
    planned = replace(planned, networks=("classifier",))
    list(study.run(planned))
    return planned


def test_bits_of_the_base_model_and_their_ratio(
    measured: dict[str, Tensor], unified_config: UnifiedConfig
) -> None:
    found = figures.bound_figures(measured, unified_config)
    base = (measured["base"].mean(1) + 1).mean().item()
    prior = (measured["prior"].mean(1) + 1).mean().item()
    free = (measured["base_null"].mean(1) + 1).mean().item()
    assert found["base_bits_per_pixel_16x16"].value == pytest.approx(base / BITS)
    assert found["base_bits_per_pixel_16x16_label_free"].value == pytest.approx(free / BITS)
    assert found["base_over_prior"].value == pytest.approx(base / prior)
    assert found["base_over_prior_label_free"].value == pytest.approx(free / prior)
    assert found["decoder_nats_per_image"].value == pytest.approx(measured["decoder"].mean().item())
    assert all(figure.n == 4 and figure.std_error for figure in found.values())


def test_without_a_base_model_the_decoder_alone(
    measured: dict[str, Tensor], unified_config: UnifiedConfig
) -> None:
    del measured["base"], measured["base_null"]
    assert figures.bound_figures(measured, unified_config).keys() == {"decoder_nats_per_image"}
    assert figures.curves(measured, unified_config).keys() == {"prior", "decoder"}


def test_curves_add_up_to_the_bounds(
    measured: dict[str, Tensor], unified_config: UnifiedConfig
) -> None:
    found = figures.curves(measured, unified_config)
    for name in ("prior", "base", "base_null"):
        assert sum(found[name].values) == pytest.approx(measured[name].mean().item() / BITS)
        assert [k for k, value in enumerate(found[name].values) if value] == [0, 14]
    assert sum(found["decoder"].values) == pytest.approx(measured["decoder"].mean().item() / 256)
    assert found["decoder"].edges[0] == -10
    assert found["decoder"].edges[-1] == 10


def test_two_way_figures_are_shares_of_hits(finished: Study) -> None:
    found = figures.two_way_figures(finished)
    assert set(found) == {f"accuracy_trained_on_{lesson}" for lesson in LESSONS}
    for lesson in LESSONS:
        figure = found[f"accuracy_trained_on_{lesson}"]
        assert figure.value == finished.hits(lesson).double().mean().item()
        assert figure.n == 10
    assert "8 generated pictures" in found["accuracy_trained_on_generated"].definition
    assert "all 300 real" in found["accuracy_trained_on_real"].definition


def test_distances_are_between_the_sets_they_name(finished: Study) -> None:
    found = figures.distance_figures(finished, "classifier", least=2)
    train, test = (finished.features("classifier", each) for each in ("train", "test"))
    drawn = finished.features("classifier", "reconstructions")
    made = finished.features("classifier", "generated")
    pairs = {
        "reconstructions": (drawn, test[:6]),
        "generated_train": (made, train),
        "generated_test": (made, test),
        "floor_test_train": (test, train),
    }
    for name, (a, b) in pairs.items():
        expected = frechet(moments(a), moments(b))
        assert found[f"frechet_classifier_{name}"].value == pytest.approx(expected, abs=1e-9)
        assert found[f"kernel_classifier_{name}"].value == kernel(a, b).value
    floors = {name for name in found if "floor_train" in name}
    kinds = ("frechet", "kernel")
    assert floors == {f"{kind}_classifier_floor_train_{n}" for kind in kinds for n in (6, 8)}
    assert all(found[name].definition.count("real against real") for name in floors)
    assert list(found)[-1].startswith("kernel_classifier_floor")


def test_floor_is_of_two_disjoint_parts() -> None:
    rows = torch.arange(20.0)[:, None]
    ((name, (first, second)),) = figures._halves(rows, 50).items()
    assert name == "floor_train_10"
    assert sorted(torch.cat((first.features, second.features)).flatten().tolist()) == list(
        range(20)
    )


def test_small_sets_get_no_frechet_distance(finished: Study) -> None:
    found = figures.distance_figures(finished, "classifier")
    assert found
    assert all(name.startswith("kernel_") for name in found)
