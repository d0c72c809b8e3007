"""The prior: zero at the start, hears its level, its size by hand."""

from __future__ import annotations

import torch

from tests.models.conftest import Awaken, learns_everywhere
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.prior import Prior


def prior(config: UnifiedConfig) -> Prior:
    return Prior(config.prior, config.latent_channels, config.grid)


def inputs(config: UnifiedConfig, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, *config.latent_shape), torch.linspace(-9, 4, n)


def test_starts_at_zero_in_the_shape_of_its_input(any_tiny: UnifiedConfig) -> None:
    z_t, log_snr = inputs(any_tiny)
    assert torch.equal(prior(any_tiny)(z_t, log_snr), torch.zeros_like(z_t))


def test_parameters_by_hand(any_tiny: UnifiedConfig) -> None:
    """Input, positions (sine and cosine of four octaves an axis), level, one block, output."""
    w, z, space = 16, 4, len(any_tiny.size)
    block = (w * 6 * w + 6 * w) + (w * 3 * w + 3 * w) + 2 * 8 + (w * w + w)
    block += (w * 4 * w + 4 * w) + (4 * w * w + w)
    level = (128 * w + w) + (w * w + w)
    output = (w * 2 * w + 2 * w) + (w * z + z)
    want = (z * w + w) + 8 * space * w + level + block + output
    assert sum(p.numel() for p in prior(any_tiny).parameters()) == want


def test_the_level_matters(any_tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, (z_t, log_snr) = awaken(prior(any_tiny)), inputs(any_tiny)
    log_snr.requires_grad_()
    out = net(z_t, log_snr)
    assert (out - net(z_t, log_snr + 1)).flatten(1).norm(dim=1).min() > 1e-3
    (gradient,) = torch.autograd.grad(out.square().sum(), log_snr)
    assert (gradient != 0).all()


def test_rows_do_not_see_each_other(any_tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, (z_t, log_snr) = awaken(prior(any_tiny)), inputs(any_tiny)
    before = net(z_t, log_snr)
    z_t[1], log_snr[1] = torch.randn(any_tiny.latent_shape), 3.0
    after = net(z_t, log_snr)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.allclose(before[1], after[1])


def test_one_by_one_equals_batched(tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, (z_t, log_snr) = awaken(prior(tiny)), inputs(tiny)
    alone = torch.cat([net(z_t[i : i + 1], log_snr[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(net(z_t, log_snr), alone, rtol=1e-5, atol=1e-5)


def test_it_tells_places_apart(tiny: UnifiedConfig, awaken: Awaken) -> None:
    """On a constant latent nothing but positions can make two cells differ."""
    out = awaken(prior(tiny))(torch.ones(1, *tiny.latent_shape), torch.zeros(1))
    cells = out[0].flatten(1).T
    assert torch.pdist(cells).min() > 1e-4


def test_every_parameter_learns(any_tiny: UnifiedConfig) -> None:
    net, (z_t, log_snr) = prior(any_tiny), inputs(any_tiny)
    learns_everywhere(net, lambda: net(z_t, log_snr))
