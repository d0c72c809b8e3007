from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Fixed
from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.manifest import Defaults
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.evaluation.bounds import bounds
from unified_latents.training.measure import Settings, images

SETTINGS = Settings(Defaults(base_steps=1, decode_steps=1), levels=6, seed=5)


class Gaussian(nn.Module):
    """The exact denoiser of x ~ N(0, s²), and of a label that says how far s is off."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std
        self.config = type("Config", (), {"classes": 3})

    def forward(self, x_t: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:
        level = log_snr.reshape(-1, 1, 1, 1)
        std = self.std * (1 + label.reshape(-1, 1, 1, 1))
        alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        x_hat = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x_t
        return (alpha * x_t - x_hat) / sigma


@pytest.fixture
def unified(unified_config: UnifiedConfig) -> UnifiedLatents:
    made = UnifiedLatents(unified_config).eval()
    stir(made)
    return made


@pytest.fixture
def base(base_config: BaseConfig) -> BaseModel:
    made = BaseModel(base_config).eval()
    stir(made)
    return made


def stir(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def blank(n: int) -> Tensor:
    return torch.arange(n * 256).remainder(251).to(torch.uint8).reshape(n, 1, 16, 16)


def test_base_bound_of_gaussian_latents_is_the_closed_form(unified: UnifiedLatents) -> None:
    """½ ln(1 + s² e⁵) nats a dimension under the exact model; without the label it knows less."""
    n = 2000
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(n, *unified.config.latent_shape, generator=generator)
    unified.encoder = Fixed(latents)  # type: ignore[assignment]
    label = torch.zeros(n, dtype=torch.int64)
    exact: BaseModel = Gaussian(1.0)  # type: ignore[assignment]
    found = bounds(unified, exact, blank(n), label, torch.arange(n), SETTINGS)
    nats = found["base"].mean(1) + found["kl_1"]
    expected = latents[0].numel() * 0.5 * math.log(1 + math.exp(5))
    error = (nats.std() / n**0.5).item()
    assert nats.mean().item() == pytest.approx(expected, abs=4 * error)
    assert found["base_null"].mean() > found["base"].mean()


def test_prior_is_charged_as_by_the_bitrate(unified: UnifiedLatents, base: BaseModel) -> None:
    """The same levels and noise as the reconstructions' rate."""
    index = torch.tensor([4, 0, 9])
    label = torch.tensor([0, 1, 2])
    found = bounds(unified, base, blank(3), label, index, SETTINGS)
    nats = images(unified, blank(3), index, (12, 12), SETTINGS)["nats"]
    torch.testing.assert_close(found["prior"].mean(1) + found["kl_1"], nats, rtol=1e-6, atol=1e-6)


def test_levels_fill_their_strata(unified: UnifiedLatents, base: BaseModel) -> None:
    label = torch.tensor([0, 1, 2])
    found = bounds(unified, base, blank(3), label, torch.arange(3), SETTINGS)
    t = (5 - found["log_snr_z"]) / 15
    assert (t * 6).floor().long().equal(torch.arange(6).expand(3, -1))
    assert found["log_snr_x"].diff(dim=1).max() < 0
    assert found["decoder"].shape == (3, 6)
    assert found["decoder"].min() > 0


def test_label_reaches_the_base_model(unified: UnifiedLatents, base: BaseModel) -> None:
    zero, one = (
        bounds(unified, base, blank(2), torch.full((2,), k), torch.arange(2), SETTINGS)
        for k in (0, 1)
    )
    assert not zero["base"].equal(one["base"])
    for name in ("base_null", "prior", "decoder", "kl_1"):
        assert zero[name].equal(one[name])


def test_bounds_do_not_depend_on_batching(unified: UnifiedLatents, base: BaseModel) -> None:
    index, label = torch.tensor([4, 0, 9]), torch.tensor([2, 1, 0])
    together = bounds(unified, base, blank(3), label, index, SETTINGS)
    for k in range(3):
        row = slice(k, k + 1)
        alone = bounds(unified, base, blank(3)[row], label[row], index[row], SETTINGS)
        for name, values in alone.items():
            torch.testing.assert_close(values, together[name][row], rtol=1e-4, atol=1e-4)


def test_without_a_base_model(unified: UnifiedLatents) -> None:
    label = torch.zeros(2, dtype=torch.int64)
    found = bounds(unified, None, blank(2), label, torch.arange(2), SETTINGS)
    assert found.keys() == {"log_snr_z", "log_snr_x", "prior", "decoder", "kl_1"}
