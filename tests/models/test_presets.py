"""Presets: the sizes that their docstrings promise, on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unified_latents.models.base import BaseModel
from unified_latents.models.presets import fashion, small_32, small_64, small_base
from unified_latents.models.unified import UnifiedLatents


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_small_32_has_the_parameters_it_says() -> None:
    with torch.device("meta"):
        unified = UnifiedLatents(small_32(1))
    assert millions(unified.encoder) == pytest.approx(0.25, abs=0.02)
    assert millions(unified.prior) == pytest.approx(1.26, abs=0.02)
    assert millions(unified.decoder) == pytest.approx(1.07, abs=0.02)


def test_latents() -> None:
    assert small_32(3).latent_shape == (16, 4, 4)
    assert small_64(3).latent_shape == (16, 8, 8)
    assert fashion().image_shape == (1, 32, 32)
    for config in (fashion(), small_64(3)):
        assert (config.latent_schedule.lambda_min, config.lambda_0) == (-10.0, 5.0)


@pytest.mark.parametrize("side", [32, 64])
def test_the_whole_set_runs(side: int) -> None:
    config = small_32(3) if side == 32 else small_64(3)
    unified, base = UnifiedLatents(config), BaseModel(small_base(config, 10))
    x, log_snr = torch.randn(2, *config.image_shape), torch.zeros(2)
    with torch.no_grad():
        z = unified.encoder(x)
        assert z.shape == (2, *config.latent_shape)
        assert unified.prior(z, log_snr).shape == z.shape
        assert unified.decoder(x, log_snr, z).shape == x.shape
        assert base(z, log_snr, torch.tensor([0, 10])).shape == z.shape
