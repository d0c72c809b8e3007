"""The loss's reference against the models' own integrands."""

from __future__ import annotations

import pytest
import torch

from unified_latents.kernels.loss import weighted_error
from unified_latents.models import diffusion
from unified_latents.models.schedule import LinearSchedule


@pytest.mark.parametrize("bias", [None, 1.5])
def test_weighted_error_is_the_models_integrand(bias: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    v, v_hat = (torch.randn(4, 3, 5, 6, generator=generator) for _ in range(2))
    schedule, t = LinearSchedule(-8.0, 5.0), torch.linspace(0.1, 0.9, 4)
    got = weighted_error(v, v_hat, schedule.log_snr(t), schedule.rate(t), bias)
    if bias is None:
        want = diffusion.elbo(v, v_hat, t, schedule)
    else:
        want = diffusion.sigmoid_weighted(v, v_hat, t, schedule, bias)
    torch.testing.assert_close(got, want)


def test_every_element_counts_once() -> None:
    """λ = 80 and −dλ/dt = 2 give the weight 1."""
    level, rate = torch.full((2,), 80.0), torch.full((2,), 2.0)
    got = weighted_error(torch.ones(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), level, rate)
    assert got.tolist() == [60.0, 60.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_fp32(dtype: torch.dtype) -> None:
    """200 000 exceeds fp16's range and bf16 cannot count beyond 256."""
    a, level = torch.full((1, 50_000), 2.0, dtype=dtype), torch.tensor([80.0])
    got = weighted_error(a, torch.zeros_like(a), level, torch.tensor([2.0]))
    assert got.dtype == torch.float32
    assert got.item() == 200_000
