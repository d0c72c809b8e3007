from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unified_latents.training.data.card import DataError
from unified_latents.training.data.fashion_mnist import LABELS
from unified_latents.training.data.sets import load as load_data
from unified_latents.training.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    ClassifierRecipe,
    hits,
    load,
    save,
    shipped,
    train,
)

CONFIG = ClassifierConfig(1, (12, 12), ("a", "b", "c"), widths=(4, 6), features=8)


def test_it_learns_shapes_and_does_so_again(shapes: Path) -> None:
    data = load_data(shapes)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        classifier = Classifier(replace(ClassifierConfig.of(data.card), widths=(4, 6), features=16))
        progress = list(train(data.train, classifier, ClassifierRecipe(epochs=3, batch=20)))
        assert [p.step for p in progress] == list(range(1, 46))
        assert progress[-1].steps == 45
        assert not classifier.training
        assert hits(classifier, data.test).float().mean() >= 0.9
        weights.append(classifier.state_dict())
    for name, value in weights[0].items():
        assert value.equal(weights[1][name])


def test_padding_cannot_help_it() -> None:
    classifier = Classifier(CONFIG).eval()
    x = torch.randn(2, 1, 16, 16)
    padded = x.clone()
    padded[..., :2, :] = 9
    padded[..., -2:] = 9
    assert classifier(x).equal(classifier(padded))
    padded[..., 5, 5] += 1
    assert not classifier(x).equal(classifier(padded))


def test_logits_are_linear_in_the_features() -> None:
    classifier = Classifier(CONFIG).eval()
    x = torch.randn(3, 1, 12, 12)
    features = classifier.features(x)
    assert features.shape == (3, 8)
    assert classifier(x).equal(classifier.head(features))


def test_round_trip_through_half_precision(tmp_path: Path) -> None:
    classifier = Classifier(CONFIG).eval()
    save(tmp_path / "judge.safetensors", classifier)
    again = load(tmp_path / "judge.safetensors")
    assert again.config == CONFIG
    x = torch.randn(4, 1, 12, 12)
    torch.testing.assert_close(again(x), classifier(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign"])
def test_file_that_is_no_classifier(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "judge.safetensors"
    save(path, Classifier(CONFIG))
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"judge\.safetensors is not a classifier"):
        load(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no classifier at"):
        load(tmp_path / "nothing")


def test_shipped_weights_are_the_pinned_ones() -> None:
    classifier = shipped()
    assert classifier.config == ClassifierConfig(1, (28, 28), LABELS)
    with pytest.raises(DataError, match="not 0000"):
        shipped(expected="0000")


def test_configurations_that_cannot_be() -> None:
    with pytest.raises(DataError, match="two labels"):
        replace(CONFIG, labels=("only",))
    with pytest.raises(DataError, match="epoch"):
        ClassifierRecipe(epochs=0)
