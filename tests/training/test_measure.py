from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Fixed
from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.manifest import Defaults
from unified_latents.models.pixels import to_unit
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.errors import TrainingError
from unified_latents.training.measure import Settings, centre, generated, images

SETTINGS = Settings(Defaults(base_steps=3, decode_steps=3, guidance=1.5), levels=4, seed=11)


class Gaussian(nn.Module):
    """The exact denoiser of x ~ N(0, s²); s = 0 and a mean: of a point."""

    def __init__(self, std: float, mean: float = 0.0) -> None:
        super().__init__()
        self.std, self.mean = std, mean

    def forward(self, x_t: Tensor, log_snr: Tensor, *_: Tensor) -> Tensor:
        level = log_snr.reshape(-1, *[1] * (x_t.ndim - 1))
        alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        x_hat = self.mean + gain * (x_t - alpha * self.mean)
        return (alpha * x_t - x_hat) / sigma


def _replace(unified: UnifiedLatents, **parts: nn.Module) -> None:
    for name, part in parts.items():
        setattr(unified, name, part)


@pytest.fixture
def pixels(generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (6, 1, 16, 16), generator=generator, dtype=torch.uint8)


@pytest.fixture
def unified(unified_config: UnifiedConfig) -> UnifiedLatents:
    made = UnifiedLatents(unified_config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_rate_of_gaussian_latents_is_the_closed_form(
    unified: UnifiedLatents, generator: torch.Generator, std: float
) -> None:
    """½ ln(1 + s² e⁵) nats a dimension under the exact prior (arXiv 2602.17270)."""
    n = 2000
    latents = std * torch.randn(n, *unified.config.latent_shape, generator=generator)
    _replace(unified, encoder=Fixed(latents), prior=Gaussian(std), decoder=Gaussian(0))
    settings = replace(SETTINGS, levels=16)
    blank = torch.zeros(n, 1, 16, 16, dtype=torch.uint8)
    nats = images(unified, blank, torch.arange(n), (12, 12), settings)["nats"]
    expected = latents[0].numel() * 0.5 * math.log(1 + std**2 * math.exp(5))
    error = (nats.std() / n**0.5).item()
    assert nats.mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.02 * expected


def test_squared_errors_of_a_decoder_that_draws_one_gray(
    unified: UnifiedLatents, pixels: Tensor
) -> None:
    _replace(unified, decoder=Gaussian(0, mean=0.25))
    found = images(unified, pixels, torch.arange(6), (12, 12), SETTINGS)
    x = to_unit(pixels).double()
    grid = (x - 0.25).square().flatten(1).mean(1)
    content = (x[..., 2:14, 2:14] - 0.25).square().flatten(1).mean(1)
    torch.testing.assert_close(found["mse_grid"], grid, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["mse_content"], content, rtol=1e-4, atol=1e-5)
    assert found["picture"].unique().tolist() == [159]


def test_figures_do_not_depend_on_batching(unified: UnifiedLatents, pixels: Tensor) -> None:
    index = torch.tensor([4, 0, 9, 2, 7, 5])
    together = images(unified, pixels, index, (12, 12), SETTINGS)
    for k in range(6):
        alone = images(unified, pixels[k : k + 1], index[k : k + 1], (12, 12), SETTINGS)
        for name in ("nats", "mse_grid", "mse_content"):
            torch.testing.assert_close(alone[name], together[name][k : k + 1], rtol=1e-4, atol=1e-4)


def test_noise_follows_the_index_and_the_seed(unified: UnifiedLatents, pixels: Tensor) -> None:
    same = pixels[:1].expand(2, -1, -1, -1)
    by_index = images(unified, same, torch.tensor([3, 4]), (12, 12), SETTINGS)
    assert by_index["nats"][0] != by_index["nats"][1]
    assert by_index["mse_grid"][0] != by_index["mse_grid"][1]
    other = images(unified, same, torch.tensor([3, 4]), (12, 12), replace(SETTINGS, seed=12))
    assert other["mse_grid"][0] != by_index["mse_grid"][0]


def test_generated_pictures_do_not_depend_on_batching(
    unified: UnifiedLatents, base_config: BaseConfig
) -> None:
    base = BaseModel(base_config).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    label, index = torch.tensor([0, 2, 1, 2]), torch.arange(5, 9)
    together = generated(unified, base, label, index, SETTINGS)
    assert together["label"].equal(label)
    for k in range(4):
        alone = generated(unified, base, label[k : k + 1], index[k : k + 1], SETTINGS)
        difference = alone["picture"].int() - together["picture"][k : k + 1].int()
        assert difference.abs().max() <= 1
    other = generated(unified, base, (label + 1) % 3, index, SETTINGS)
    assert not other["picture"].equal(together["picture"])


def test_centre() -> None:
    x = torch.arange(16).reshape(1, 1, 4, 4)
    assert centre(x, (2, 4)).flatten().tolist() == list(range(4, 12))


@pytest.mark.parametrize(
    "change",
    [
        {"levels": 0},
        {"seed": -1},
        {"seed": 2**53},
        {"sampling": Defaults(decode_steps=0)},
        {"sampling": Defaults(base_steps=0)},
    ],
)
def test_settings_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError):
        replace(SETTINGS, **change)  # type: ignore[arg-type]
