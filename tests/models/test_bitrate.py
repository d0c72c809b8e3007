"""Single images' bitrates: against quadrature, calibrated errors, independence of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import Awaken
from unified_latents.models.bitrate import bitrate, to_bits
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.sampling import NoiseKeys, Stage
from unified_latents.models.schedule import LinearSchedule
from unified_latents.models.unified import UnifiedLatents

Gaussian = Callable[[float], nn.Module]


def keys(n: int, seed: int = 0) -> NoiseKeys:
    return NoiseKeys(torch.full((n,), seed), torch.arange(n), Stage.BITRATE)


def exact(config: UnifiedConfig, prior: nn.Module, channels: int = 8) -> UnifiedLatents:
    """A model of `channels`×4×4 latents with a planted prior."""
    unified = UnifiedLatents(replace(config, latent_channels=channels))
    setattr(unified, "prior", prior)  # noqa: B010  a stand-in of another class
    return unified


def nats_by_quadrature(z: Tensor, std: float, lambda_min: float) -> float:
    """E over ε and t of the integrand for this very z, and its KL_1, under the exact denoiser.

    z − ẑ = (σ² z − α s² σ ε) / (α² s² + σ²), so the mean over ε is elementary.
    """
    points, masses = np.polynomial.legendre.leggauss(80)
    total = 0.0
    for point, mass in zip(points, masses, strict=True):
        lam = lambda_min + (5 - lambda_min) * (point + 1) / 2
        a2, s2 = 1 / (1 + math.exp(-lam)), 1 / (1 + math.exp(lam))
        spread = s2**2 * z.double().square() + a2 * s2 * std**4
        error = (spread / (a2 * std**2 + s2) ** 2).sum().item()
        total += mass / 2 * (5 - lambda_min) * 0.5 * math.exp(lam) * error
    a2, s2 = 1 / (1 + math.exp(-lambda_min)), 1 / (1 + math.exp(lambda_min))
    return total + 0.5 * (a2 * z.double().square() + s2 - 1 - math.log(s2)).sum().item()


@pytest.mark.parametrize(("std", "lambda_min"), [(0.5, -10.0), (1.0, -6.0), (2.0, -2.0)])
def test_one_latents_bound_is_its_integral(
    tiny: UnifiedConfig, gaussian: Gaussian, std: float, lambda_min: float
) -> None:
    """KL_1 in it, which at s = 2 and λ_z(1) = −2 is far above the error here."""
    config = replace(tiny, latent_schedule=LinearSchedule(lambda_min, 5.0))
    unified = exact(config, gaussian(std))
    z = std * torch.randn(16, 8, 4, 4)
    rate = bitrate(unified, z, keys(16), 64)
    for i in range(16):
        want = nats_by_quadrature(z[i], std, lambda_min)
        assert abs(rate.nats[i].item() - want) < 5 * rate.std_error[i].item()
    total = sum(nats_by_quadrature(row, std, lambda_min) for row in z)
    error = math.sqrt(rate.std_error.square().sum().item())
    assert error < 0.01 * total
    assert abs(rate.nats.sum().item() - total) < 4 * error


def test_the_gaussian_identity(tiny: UnifiedConfig, gaussian: Gaussian) -> None:
    """The mean over z ~ N(0, 1): 2.5034 nats a dimension."""
    z = torch.randn(256, 8, 4, 4)
    nats = bitrate(exact(tiny, gaussian(1.0)), z, keys(256), 16).nats / 128
    assert abs(nats.mean().item() - 2.5034) < 4.5 * nats.std().item() / 16
    assert nats.std().item() / 16 < 0.02


@pytest.mark.parametrize(("levels", "relative"), [(1, 1.23), (8, 0.095), (32, 0.043)])
def test_strata_buy_what_paper_md_says(
    tiny: UnifiedConfig, gaussian: Gaussian, levels: int, relative: float
) -> None:
    """Relative standard deviation on a 128-dimensional unit Gaussian, over 600 latents."""
    rate = bitrate(exact(tiny, gaussian(1.0)), torch.randn(600, 8, 4, 4), keys(600), levels)
    assert (rate.nats.std() / rate.nats.mean()).item() == pytest.approx(relative, rel=0.12)


@pytest.mark.parametrize("levels", [8, 64])
def test_the_standard_error_is_the_spread_over_seeds(
    tiny: UnifiedConfig, gaussian: Gaussian, levels: int
) -> None:
    """One latent under 400 keys, whatever the trend of the integrand across the strata."""
    z = torch.randn(1, 8, 4, 4).expand(400, -1, -1, -1)
    rate = bitrate(exact(tiny, gaussian(1.0)), z, keys(400), levels)
    ratio = rate.std_error.square().mean().sqrt() / rate.nats.std()
    assert 0.9 < ratio < 1.2


def test_a_row_depends_on_its_key_and_nothing_else(tiny: UnifiedConfig, awaken: Awaken) -> None:
    """Neither the batch nor the rows a pass; the real prior, so up to its own rounding."""
    unified, z = awaken(UnifiedLatents(tiny)), torch.randn(3, *tiny.latent_shape)
    together = bitrate(unified, z, keys(3), 10)
    chunked = bitrate(unified, z, keys(3), 10, rows=4)
    torch.testing.assert_close(chunked.nats, together.nats, rtol=1e-5, atol=0)
    torch.testing.assert_close(chunked.std_error, together.std_error, rtol=1e-4, atol=0)
    for i in range(3):
        key = NoiseKeys(torch.tensor([0]), torch.tensor([i]), Stage.BITRATE)
        alone = bitrate(unified, z[i : i + 1], key, 10)
        torch.testing.assert_close(alone.nats[0], together.nats[i], rtol=1e-5, atol=0)
    assert torch.equal(bitrate(unified, z, keys(3), 10).nats, together.nats)
    assert not torch.equal(bitrate(unified, z, keys(3, seed=1), 10).nats, together.nats)


@pytest.mark.parametrize("levels", [1, 2])
def test_below_three_levels_there_is_no_standard_error(tiny: UnifiedConfig, levels: int) -> None:
    rate = bitrate(UnifiedLatents(tiny), torch.randn(2, *tiny.latent_shape), keys(2), levels)
    assert rate.nats.isfinite().all()
    assert rate.std_error.isnan().all()


@pytest.mark.parametrize("levels", [0, -1])
def test_no_levels_are_refused(tiny: UnifiedConfig, levels: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bitrate(UnifiedLatents(tiny), torch.randn(1, *tiny.latent_shape), keys(1), levels)


def test_bits() -> None:
    assert to_bits(math.log(8)) == pytest.approx(3)
    assert to_bits(2.5034) == pytest.approx(3.61, abs=0.005)
