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
