"""The options with which loops are compiled: that Inductor knows them, and what GELU becomes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unified_latents.kernels import inductor


@pytest.mark.slow
def test_a_compiled_gelu_is_as_close_to_the_truth_as_torchs() -> None:
    """Over all that an activation can be, infinities too; forward and backward."""

    def gelu(x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(gelu, options=inductor.OPTIONS)
        x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -0.0, 1e-30, 1e4])))
        made, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        ours, truth = compiled(made), gelu(exact)
        ours.sum().backward()
        truth.sum().backward()
    assert made.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.double(), truth, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(made.grad.double(), exact.grad, rtol=2e-6, atol=1e-6)
