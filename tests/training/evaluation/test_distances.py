from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from unified_latents.training.evaluation.distances import Moments, frechet, kernel, mmd2, moments


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated, skewed, not negative, like activations after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    found: Tensor = (rows @ mixing / d**0.5 + shift).relu()
    return found


def reference_frechet(a: Tensor, b: Tensor) -> float:
    """The formula as published code has it: a general matrix root, by Schur's method."""
    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t)
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(s) + np.trace(t) - 2 * np.trace(root.real))


@pytest.mark.parametrize(("d", "shift"), [(3, 0.0), (24, 0.3), (128, 0.05)])
def test_frechet_is_that_of_a_general_matrix_root(d: int, shift: float) -> None:
    a, b = features(700, d, 0), features(500, d, 1, shift)
    found = frechet(moments(a), moments(b))
    assert found == pytest.approx(reference_frechet(a, b), rel=1e-6)


def test_frechet_of_gaussians_that_commute_is_the_closed_form() -> None:
    """‖μ_a − μ_b‖² + Σ (σ_a − σ_b)²."""
    a = Moments(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double()))
    b = Moments(torch.tensor([3.0, 5.0]).double(), torch.diag(torch.tensor([1.0, 0.0]).double()))
    assert frechet(a, b) == pytest.approx(25 + 1 + 9, rel=1e-12)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)


def test_frechet_turns_with_its_arguments() -> None:
    """Symmetric, and the same in any rotated basis."""
    a, b = moments(features(300, 8, 0)), moments(features(300, 8, 1, 0.2))
    turn, _ = torch.linalg.qr(features(8, 8, 2) - 0.3)
    turned = (Moments(turn @ m.mean, turn @ m.covariance @ turn.T) for m in (a, b))
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(*turned) == pytest.approx(frechet(a, b), rel=1e-9)


def test_frechet_with_fewer_pictures_than_features() -> None:
    """Singular covariances: a set is at no distance from itself, and n copies change nothing."""
    few = features(6, 20, 0)
    assert frechet(moments(few), moments(few)) == pytest.approx(0, abs=1e-6)
    assert frechet(moments(few), moments(features(6, 20, 1))) > 0.1


def test_moments_are_numpys() -> None:
    a = features(50, 5, 3).float()
    found = moments(a)
    np.testing.assert_allclose(found.mean, a.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(a.double().numpy(), rowvar=False))
    with pytest.raises(ValueError, match="two rows"):
        moments(a[:1])


def reference_mmd2(a: Tensor, b: Tensor) -> float:
    """The definition, pair by pair."""

    def k(x: Tensor, y: Tensor) -> float:
        return float((np.dot(x.numpy(), y.numpy()) / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i, j in product(range(n), repeat=2) if i != j)
    within_b = sum(k(b[i], b[j]) for i, j in product(range(m), repeat=2) if i != j)
    across = sum(k(x, y) for x, y in product(a, b))
    return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)


def test_mmd2_is_the_double_sum() -> None:
    a, b = features(30, 7, 0), features(20, 7, 1, 0.3)
    assert mmd2(a, b).item() == pytest.approx(reference_mmd2(a, b), rel=1e-6)


def test_kernel_distance_is_the_mean_over_disjoint_blocks() -> None:
    a, b = features(35, 4, 0), features(24, 4, 1, 0.2)
    found = kernel(a, b, block=12, seed=3)
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(len(each), generator=generator) for each in (a, b)]
    blocks = [reference_mmd2(a[orders[0][k : k + 12]], b[orders[1][k : k + 12]]) for k in (0, 12)]
    assert found.value == pytest.approx(np.mean(blocks), rel=1e-6)
    assert found.std_error == pytest.approx(np.std(blocks, ddof=1) / 2**0.5, rel=1e-6)


def test_kernel_distance_of_one_distribution_is_nothing_beside_its_error() -> None:
    near = kernel(features(4000, 6, 0), features(4000, 6, 1), block=200)
    far = kernel(features(4000, 6, 0), features(4000, 6, 1, 0.3), block=200)
    assert near.std_error is not None
    assert abs(near.value) < 4 * near.std_error
    assert far.value > 20 * near.std_error


def test_a_single_block_has_no_error() -> None:
    assert kernel(features(9, 3, 0), features(5, 3, 1)).std_error is None
    with pytest.raises(ValueError, match="two rows"):
        kernel(features(9, 3, 0), features(1, 3, 1))
