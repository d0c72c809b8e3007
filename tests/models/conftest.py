"""Tiny networks, and exact denoisers: the oracles of these tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import pytest
import torch
from torch import Tensor, nn

from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule

Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture(params=["image", "video"])
def any_tiny(request: pytest.FixtureRequest, tiny: UnifiedConfig) -> UnifiedConfig:
    """`tiny` on images, and its twin on clips of four frames."""
    if request.param == "image":
        return tiny
    return replace(
        tiny,
        size=(4, 16, 16),
        encoder=EncoderConfig((8, 12), (1, 1), (1, 2, 2), ((2, 2, 2),)),
        decoder=replace(tiny.decoder, patch=(1, 2, 2), strides=((2, 1, 1),)),
    )


@pytest.fixture
def tiny() -> UnifiedConfig:
    """3×16×16 pictures in 4×4×4 latents; the decoder's transformer on 8×8."""
    transformer = TransformerConfig(width=16, depth=1, head_dim=8)
    return UnifiedConfig(
        name="tiny",
        image_channels=3,
        size=(16, 16),
        latent_channels=4,
        encoder=EncoderConfig((8, 12), (1, 1), (2, 2), ((2, 2),)),
        prior=transformer,
        decoder=DecoderConfig((8,), 1, (2, 2), ((1, 1),), transformer),
        latent_schedule=LinearSchedule(-10.0, 5.0),
        image_schedule=CosineSchedule(-10.0, 10.0),
        loss_factor=1.7,
        decoder_bias=0.5,
    )


@pytest.fixture
def tiny_base(tiny: UnifiedConfig) -> BaseConfig:
    return base_for(tiny)


def base_for(config: UnifiedConfig) -> BaseConfig:
    return BaseConfig(
        name=config.name,
        latent_shape=config.latent_shape,
        outer=TransformerConfig(width=16, depth=2, head_dim=8),
        inner=TransformerConfig(width=24, depth=1, head_dim=8),
        stride=tuple(2 for _ in config.grid),
        classes=3,
        schedule=config.latent_schedule,
        bias=0.25,
    )


@pytest.fixture
def any_tiny_base(any_tiny: UnifiedConfig) -> BaseConfig:
    """A base model for `any_tiny`, on images and on clips."""
    return base_for(any_tiny)


@torch.no_grad()
def _awaken(module: Module, seed: int = 0) -> Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise / fan_in**0.5 + (parameter.ndim == 1) * 0.5)
    return module.eval()


class Awaken(Protocol):
    """Fills every parameter, so that nothing hides behind a zero; evaluation mode."""

    def __call__(self, module: Module, seed: int = 0) -> Module: ...


@pytest.fixture
def awaken() -> Awaken:
    return _awaken


def learns_everywhere(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """After three steps from the start no parameter is without a gradient.

    One step opens the zero output, a second the zero gates behind it, a third what they gate.
    """
    target = torch.randn(run().shape, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        (run() - target).square().mean().backward()
        optimizer.step()
    still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


class GaussianDenoiser(nn.Module):
    """The exact posterior mean of x ~ N(mean, std²) in every dimension, as v̂ (std = 0: a point).

    x̂ = m + α s² (x_t − α m) / (α² s² + σ²),  v̂ = (α x_t − x̂) / σ.
    """

    def __init__(self, std: float, mean: float = 0.0) -> None:
        super().__init__()
        self.std, self.mean = std, mean

    def forward(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        snr = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        alpha2, sigma2 = (a.reshape(-1, *[1] * (x_t.ndim - 1)) for a in snr)
        alpha, variance = alpha2.sqrt(), self.std**2
        gain = alpha * variance / (alpha2 * variance + sigma2)
        x_hat = self.mean + gain * (x_t - alpha * self.mean)
        return (alpha * x_t - x_hat) / sigma2.sqrt()


@pytest.fixture
def gaussian() -> type[GaussianDenoiser]:
    return GaussianDenoiser
