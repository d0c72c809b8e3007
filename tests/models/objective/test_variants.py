from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import Awaken
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.objective.terms import Bound, DiffusionDecoder, DiffusionPrior
from unified_latents.models.objective.variants import (
    VARIANTS,
    DetachedPrior,
    LearnedVariance,
    MeanDecoder,
    NormalPrior,
    variance_rate,
)
from unified_latents.models.sampling import NoiseKeys, Stage, plan, sample
from unified_latents.models.schedule import LinearSchedule
from unified_latents.models.unified import Draws, Losses, UnifiedLatents

SCHEDULE = LinearSchedule(-10.0, 5.0)
N = 4096


def draws_of(config: UnifiedConfig, n: int = 4) -> tuple[Tensor, Draws]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(n, *config.image_shape, generator=generator) * 2 - 1
    return x, Draws.sample(config, n, generator)


def losses_of(config: UnifiedConfig, awaken: Awaken, bound: Bound) -> tuple[UnifiedLatents, Losses]:
    unified = awaken(UnifiedLatents(config, bound))
    x, draws = draws_of(config)
    return unified, unified.losses(x, draws)


def test_every_variant_changes_one_term(tiny: UnifiedConfig, awaken: Awaken) -> None:
    """Three independent objects: what two of them make is the same to the bit."""
    _, plain = losses_of(tiny, awaken, VARIANTS["unified"])
    for name in ("normal-prior", "detached-prior"):
        _, other = losses_of(tiny, awaken, VARIANTS[name])
        assert torch.equal(other.image, plain.image)
    for name in ("mse-decoder", "single-stage"):
        _, other = losses_of(tiny, awaken, VARIANTS[name])
        assert torch.equal(other.latent, plain.latent)
        assert not torch.allclose(other.image, plain.image)
    assert plain.penalty.eq(0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_on_clips_and_pictures_to_a_plain_checkpoint(
    name: str, any_tiny: UnifiedConfig
) -> None:
    torch.manual_seed(0)
    unified = UnifiedLatents(any_tiny, VARIANTS[name])
    x, draws = draws_of(any_tiny)
    optimiser = torch.optim.Adam(unified.parameters(), 1e-2)
    found = []
    for _ in range(12):
        losses = unified.losses(x, draws)
        loss = (losses.latent + losses.image + losses.penalty).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    plain = unified.plain()
    assert plain.state_dict().keys() == UnifiedLatents(any_tiny).state_dict().keys()
    with torch.no_grad():
        mean = unified.encoder(x)[:, : any_tiny.latent_channels]
        torch.testing.assert_close(plain.encoder(x), mean, rtol=1e-5, atol=1e-5)


def test_a_learned_variance_is_counted_in_the_rate(gaussian: Callable[..., nn.Module]) -> None:
    """μ ~ N(0, s²), σ_z fixed: z_0 costs KL[ N(α μ, α² σ_z² + σ²) ‖ N(0, α² (s² + σ_z²) + σ²) ].

    Under the exact prior, and with L_e; without L_e the information of σ_z ε would be charged.
    """
    s, variance, alpha2 = 0.8, 0.05, 1 / (1 + math.exp(-5))
    generator = torch.Generator().manual_seed(0)
    mean, eps = (torch.randn(N, 4, 4, 4, generator=generator) for _ in range(2))
    log_variance = torch.full_like(mean, math.log(variance) + 5.0)
    encoded = LearnedVariance()(torch.cat((s * mean, log_variance), 1), eps, 5.0)
    assert encoded.z_clean.var().item() == pytest.approx(s**2 + variance, rel=0.01)
    found = DiffusionPrior()(
        gaussian(math.sqrt(s**2 + variance)),
        SCHEDULE,
        encoded.z_clean,
        (torch.arange(N) + 0.5) / N,
        torch.randn(mean.shape, generator=generator),
        1.0,
    )
    noise = alpha2 * variance + 1 - alpha2
    want = 0.5 * math.log1p(alpha2 * s**2 / noise)
    rate = (found.rate + encoded.nats).mean().item() / 64
    assert rate == pytest.approx(want, rel=0.01)
    assert found.rate.mean().item() / 64 > 1.3 * want


@pytest.mark.parametrize("log_variance", [-40.0, -5.0, 3.0])
def test_the_rate_of_a_variance_by_hand(log_variance: float) -> None:
    want = -0.5 * 6 * math.log(math.exp(log_variance + 5) + 1)
    found = variance_rate(torch.full((2, 6, 1, 1), log_variance), 5.0)
    assert found.tolist() == pytest.approx([want, want], rel=1e-5, abs=1e-12)


def test_a_vanishing_variance_is_the_fixed_one(tiny: UnifiedConfig, awaken: Awaken) -> None:
    unified = awaken(UnifiedLatents(tiny, Bound(posterior=LearnedVariance())))
    with torch.no_grad():
        for name in ("weight", "bias"):
            part = unified.encoder.get_parameter(f"output.2.{name}")
            part[tiny.latent_channels :] = -1e3 if name == "bias" else 0
    plain = unified.plain()
    x, draws = draws_of(tiny)
    with torch.no_grad():
        got, want = unified.losses(x, draws), plain.losses(x, draws)
    # the variance is held at e^−10 of the fixed noise's
    torch.testing.assert_close(got.latent, want.latent, rtol=0.02, atol=0.02)
    torch.testing.assert_close(got.image, want.image, rtol=0.02, atol=0.02)


def test_a_normal_prior_is_a_network_that_predicts_nothing(tiny: UnifiedConfig) -> None:
    """The diffusion bound of v̂ = 0 over all levels is the closed form, so evaluation is right."""
    z = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(1)) * 0.7
    fresh = UnifiedLatents(tiny).prior
    generator, levels = torch.Generator().manual_seed(3), (torch.arange(N) + 0.5) / N
    many = z.expand(N, -1, -1, -1)
    eps = torch.randn(many.shape, generator=generator)
    with torch.no_grad():
        bound = DiffusionPrior()(fresh, SCHEDULE, many, levels, eps, 1.0).rate.mean()
        closed = NormalPrior()(fresh, SCHEDULE, z, levels[:1], eps[:1], 1.0).rate
    assert bound.item() == pytest.approx(closed.item(), rel=0.01)


def test_a_detached_prior_does_not_reach_the_encoder(tiny: UnifiedConfig, awaken: Awaken) -> None:
    prior = awaken(UnifiedLatents(tiny).prior)
    _, draws = draws_of(tiny)
    z = torch.randn(4, *tiny.latent_shape, requires_grad=True)
    term = DetachedPrior(weight=0.25)
    found = term(prior, SCHEDULE, z, draws.t_z, draws.eps_z, 1.0)
    plain = DiffusionPrior()(prior, SCHEDULE, z, draws.t_z, draws.eps_z, 1.0)
    assert torch.equal(found.rate, plain.rate)
    found.rate.sum().backward()
    assert z.grad is None
    assert next(prior.parameters()).grad is not None
    closed = NormalPrior()(prior, SCHEDULE, z, draws.t_z, draws.eps_z, 1.0).rate
    torch.testing.assert_close(found.penalty, 0.25 * closed)
    found.penalty.sum().backward()
    # d/dz of ½ α² z² at λ(0)
    torch.testing.assert_close(z.grad, 0.25 * z.detach() / (1 + math.exp(-5)))


def test_what_a_decoder_of_means_learns_is_what_one_step_returns(tiny: UnifiedConfig) -> None:
    """A denoiser that answers x̂ = ½ everywhere: the term is ½ e^b ‖x − ½‖², the sample is ½."""
    schedule = tiny.image_schedule

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        shape = (-1, *[1] * (x_t.ndim - 1))
        alpha, sigma = (torch.sigmoid(s * log_snr).sqrt().reshape(shape) for s in (1, -1))
        return (alpha * x_t - 0.5) / sigma

    x, draws = draws_of(tiny)
    term = MeanDecoder()(denoise, tiny, x, draws.t_x, draws.eps_x)
    want = 0.5 * math.exp(tiny.decoder_bias) * (x - 0.5).square().flatten(1).sum(1)
    torch.testing.assert_close(term, want)
    index = torch.arange(2)
    keys = NoiseKeys(torch.zeros_like(index), index, Stage.DECODE)
    steps = plan(schedule, 1, "ancestral", to_mean=True)
    drawn = sample(denoise, keys, tiny.image_shape, steps, clip=True)
    torch.testing.assert_close(drawn, torch.full_like(drawn, 0.5), rtol=0, atol=1e-4)


def test_a_shifted_decoder_is_one_of_another_bias(tiny: UnifiedConfig, awaken: Awaken) -> None:
    _, shifted = losses_of(tiny, awaken, Bound(image=DiffusionDecoder(shift=-3.0)))
    lower = replace(tiny, decoder_bias=tiny.decoder_bias - 3)
    _, want = losses_of(lower, awaken, VARIANTS["unified"])
    assert torch.equal(shifted.image, want.image)


def test_a_single_stage_is_sampled_by_its_prior(tiny: UnifiedConfig, awaken: Awaken) -> None:
    unified = awaken(UnifiedLatents(tiny, VARIANTS["single-stage"]))
    index = torch.arange(3)
    keys = NoiseKeys(torch.zeros_like(index), index, Stage.BASE)
    steps = plan(tiny.latent_schedule, 4, "dpmpp-2m", to_mean=False)
    with torch.no_grad():
        z_0 = sample(unified.prior, keys, tiny.latent_shape, steps, clip=False)
    assert z_0.shape == (3, *tiny.latent_shape)
    assert z_0.isfinite().all()
