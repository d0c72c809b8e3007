"""Modulated layer norm and the gated residual against their definitions, values and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from unified_latents.kernels.modulate import gated_residual, modulate


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_modulate_is_its_definition() -> None:
    x, shift, scale = draw(3, 5, 8), draw(3, 8, seed=1), draw(3, 8, seed=2)
    got = modulate(x, shift, scale)
    for n in range(3):
        for i in range(5):
            row = x[n, i]
            normed = (row - row.mean()) / (row.var(unbiased=False) + 1e-6).sqrt()
            torch.testing.assert_close(got[n, i], normed * (1 + scale[n]) + shift[n])


def test_gated_residual_is_its_definition() -> None:
    x, y, gate = draw(3, 5, 8), draw(3, 5, 8, seed=1), draw(3, 8, seed=2)
    got = gated_residual(x, y, gate)
    for n in range(3):
        for i in range(5):
            torch.testing.assert_close(got[n, i], x[n, i] + gate[n] * y[n, i])


def test_a_zero_gate_is_the_identity_to_the_bit() -> None:
    x = draw(2, 3, 4).float()
    assert torch.equal(gated_residual(x, draw(2, 3, 4, seed=1).float(), torch.zeros(2, 4)), x)


def test_gradients_of_every_input() -> None:
    x, y = (draw(2, 3, 4, seed=i).requires_grad_() for i in range(2))
    a, b = (draw(2, 4, seed=i).requires_grad_() for i in (2, 3))
    assert torch.autograd.gradcheck(modulate, (x, a, b))
    assert torch.autograd.gradcheck(gated_residual, (x, y, a))
