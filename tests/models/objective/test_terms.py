from __future__ import annotations

import torch

from unified_latents.models.config import UnifiedConfig
from unified_latents.models.diffusion import kl_to_standard_normal
from unified_latents.models.objective.terms import (
    DiffusionPrior,
    FixedVariance,
    latent_bound,
    scale_gradient,
)
from unified_latents.models.schedule import LinearSchedule
from unified_latents.models.unified import Draws, UnifiedLatents


def test_a_fixed_variance_costs_nothing_and_changes_nothing() -> None:
    encoded, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = FixedVariance()(encoded, eps, 5.0)
    assert found.z_clean is encoded
    assert found.nats.tolist() == [0, 0]


def test_the_latent_term_is_the_bound_and_kl_1(tiny: UnifiedConfig) -> None:
    unified, schedule = UnifiedLatents(tiny), LinearSchedule(-4.0, 5.0)
    draws = Draws.sample(tiny, 3, torch.Generator().manual_seed(0))
    z = torch.randn(3, *tiny.latent_shape)
    found = DiffusionPrior()(unified.prior, schedule, z, draws.t_z, draws.eps_z, 1.0)
    kl_1 = kl_to_standard_normal(z, -4.0)
    bound = latent_bound(unified.prior, schedule, z, draws.t_z, draws.eps_z)
    torch.testing.assert_close(found.rate, bound + kl_1)
    torch.testing.assert_close(found.kl_1, kl_1)


def test_the_weight_scales_the_encoders_gradient_alone(tiny: UnifiedConfig) -> None:
    prior = UnifiedLatents(tiny).prior
    last = prior.get_parameter("output.projection.weight")
    torch.nn.init.normal_(last, std=0.1)
    draws = Draws.sample(tiny, 3, torch.Generator().manual_seed(0))
    gradients, weights = [], []
    for weight in (1.0, 0.25):
        z = torch.randn(3, *tiny.latent_shape, generator=torch.Generator().manual_seed(1))
        z.requires_grad_()
        prior.zero_grad()
        term = DiffusionPrior()(prior, tiny.latent_schedule, z, draws.t_z, draws.eps_z, weight)
        term.rate.sum().backward()
        gradients.append(z.grad)
        assert last.grad is not None
        weights.append(last.grad.clone())
    torch.testing.assert_close(*weights)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[1], 0.25 * gradients[0])


def test_scaling_keeps_the_values() -> None:
    x = torch.randn(5, requires_grad=True)
    assert torch.equal(scale_gradient(x, 0.3), x)
