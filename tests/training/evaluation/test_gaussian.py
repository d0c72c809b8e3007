from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unified_latents.training.data.sets import load
from unified_latents.training.evaluation.distances import Moments, moments
from unified_latents.training.evaluation.gaussian import Pictures, draw, gaussian


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_have_the_moments_they_were_drawn_from() -> None:
    """A singular covariance too: a constant dimension stays what it is."""
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
    fitted = Moments(torch.tensor([1.0, -2.0, 7.0]).double(), factor @ factor.T)
    drawn = draw(fitted, 40_000, generator())
    found = moments(drawn)
    torch.testing.assert_close(found.mean, fitted.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(found.covariance, fitted.covariance, rtol=0.03, atol=0.05)
    assert (drawn[:, 2] - 7).abs().max() < 1e-9


def test_each_class_has_its_own_gaussian(shapes: Path) -> None:
    train = load(shapes).train
    made = gaussian(train, 300, 3, generator())
    assert made.label.tolist() == [0, 1, 2] * 100
    assert made.image.shape == (300, 1, 16, 16)
    assert made.image[..., :2, :].max() == 0
    for label in range(3):
        real = train.batch((train.labels == label).nonzero().flatten().tolist()).image
        gap = made.image[made.label == label].double().mean(0) - real.double().mean(0)
        assert gap.abs().mean() < 3
    again = gaussian(train, 300, 3, generator())
    assert made.image.equal(again.image)
    assert not made.image.equal(gaussian(train, 300, 3, generator(1)).image)


def test_a_class_without_pictures_is_left_out(shapes: Path) -> None:
    made = gaussian(load(shapes).train, 6, 5, generator())
    assert made.label.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("indices", [[2, 0], []])
def test_pictures_hand_out_batches(indices: list[int]) -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    batch = Pictures(image, torch.tensor([5, 6, 7])).batch(indices)
    assert batch.image.equal(image[torch.tensor(indices, dtype=torch.int64)])
    assert batch.label.tolist() == [5 + index for index in indices]
