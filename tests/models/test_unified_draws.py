"""The randomness of stage 1: stratified levels, independent normals, reproducible."""

from __future__ import annotations

import math

import pytest
import torch

from unified_latents.models.config import UnifiedConfig
from unified_latents.models.unified import Draws, antithetic


@pytest.mark.parametrize("n", [1, 7, 64])
def test_antithetic_levels_fall_one_in_each_stratum(n: int) -> None:
    generator = torch.Generator().manual_seed(2)
    t, again = antithetic(n, generator), antithetic(n, generator)
    assert sorted((t * n).floor().int().tolist()) == list(range(n))
    offsets = t * n - (t * n).floor()
    torch.testing.assert_close(offsets, offsets[:1].expand(n), rtol=0, atol=1e-5)
    assert not torch.equal(t, again)


def test_antithetic_levels_are_uniform_at_every_place_in_the_batch() -> None:
    """Row 0 must not always be the cleanest: each row's own t is uniform."""
    generator = torch.Generator().manual_seed(2)
    t = torch.stack([antithetic(4, generator) for _ in range(2000)])
    for row in t.T:
        assert row.mean().item() == pytest.approx(0.5, abs=4.5 * math.sqrt(1 / 12 / 2000))
        assert row.var().item() == pytest.approx(1 / 12, rel=0.1)


def test_draws_are_standard_normal_distinct_and_reproducible(tiny: UnifiedConfig) -> None:
    draws = Draws.sample(tiny, 256, torch.Generator().manual_seed(9))
    again = Draws.sample(tiny, 256, torch.Generator().manual_seed(9))
    for name in ("eps_z", "eps_0", "eps_x"):
        eps = getattr(draws, name)
        assert torch.equal(eps, getattr(again, name))
        assert eps.mean().item() == pytest.approx(0, abs=0.05)
        assert eps.var().item() == pytest.approx(1, abs=0.05)
    assert draws.eps_z.shape == draws.eps_0.shape == (256, *tiny.latent_shape)
    assert draws.eps_x.shape == (256, *tiny.image_shape)
    assert (draws.eps_z * draws.eps_0).mean().abs() < 0.05
    assert not torch.equal(draws.t_z, draws.t_x)
