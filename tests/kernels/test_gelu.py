"""GELU against torch's in fp64, values and gradients, over all that an activation can be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unified_latents.kernels import dispatch
from unified_latents.kernels.gelu import gelu


def check(run: Callable[[Tensor], Tensor]) -> None:
    """fp32 within 1e-6 of the truth, forward and backward."""
    x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -0.0, 1e-30, 1e4])))
    made, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    ours, truth = run(made), F.gelu(exact, approximate="tanh")
    ours.sum().backward()
    truth.sum().backward()
    assert made.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.double(), truth, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(made.grad.double(), exact.grad, rtol=2e-6, atol=1e-6)


def test_it_is_torchs_to_the_last_digits() -> None:
    check(gelu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_rounded_once(dtype: torch.dtype) -> None:
    x = torch.linspace(-6, 6, 1001).to(dtype)
    truth = F.gelu(x.double(), approximate="tanh")
    error = (gelu(x).double() - truth).abs() / truth.abs().clamp(1e-3)
    assert gelu(x).dtype == dtype
    assert error.max() <= torch.finfo(dtype).eps


def test_on_a_gpu_it_is_one_launch() -> None:
    x = torch.randn(8)
    with dispatch.forced(fused=True):
        assert torch.equal(dispatch.gelu(x), F.gelu(x, approximate="tanh"))
