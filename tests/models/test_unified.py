"""Stage 1's bound through its real code: exact values, what each network sees, whose gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import Awaken
from unified_latents.models.config import DecoderConfig, EncoderConfig, UnifiedConfig
from unified_latents.models.diffusion import kl_to_standard_normal
from unified_latents.models.objective.terms import latent_bound, scale_gradient
from unified_latents.models.schedule import LinearSchedule
from unified_latents.models.unified import (
    Draws,
    Losses,
    UnifiedLatents,
)


class Scale(nn.Module):
    """An encoder whose latent is `std` times its picture."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return self.std * x


class Recorder(nn.Module):
    """A network that keeps what it was given and predicts zero, in the shape of its input."""

    seen: tuple[Tensor, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        self.seen = inputs
        return torch.zeros_like(inputs[0])


@pytest.fixture
def flat(tiny: UnifiedConfig) -> UnifiedConfig:
    """Pictures of the latent's own shape, 4×4×4."""
    return replace(
        tiny,
        image_channels=4,
        size=(4, 4),
        encoder=EncoderConfig((8,), (1,), (1, 1), ()),
        decoder=DecoderConfig((8,), 1, (1, 1), ((1, 1),), tiny.decoder.transformer),
    )


def planted(
    config: UnifiedConfig, std: float, prior: nn.Module, decoder: nn.Module
) -> UnifiedLatents:
    unified = UnifiedLatents(config)
    for name, module in (("encoder", Scale(std)), ("prior", prior), ("decoder", decoder)):
        setattr(unified, name, module)
    return unified


def level(value: float) -> tuple[float, float]:
    """α² and σ² at one λ."""
    return 1 / (1 + math.exp(-value)), 1 / (1 + math.exp(value))


@pytest.mark.parametrize("lambda_min", [-10.0, -6.0, -2.0])
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_gaussian_identity_by_monte_carlo(
    flat: UnifiedConfig, gaussian: Callable[[float], nn.Module], std: float, lambda_min: float
) -> None:
    """L_z = ½ ln(1 + s² e⁵) + ½ (v − 1 − ln v) a dimension, through `losses` itself.

    Sixteen independent batches tell the error of their mean; a term of a thousandth is resolved.
    """
    config = replace(flat, latent_schedule=LinearSchedule(lambda_min, 5.0))
    unified = planted(config, std, gaussian(std), Recorder())
    generator = torch.Generator().manual_seed(5)
    means, kl = [], []
    for _ in range(16):
        draws = Draws.sample(config, 4096, generator)
        x = torch.randn(4096, 4, 4, 4, generator=generator)
        losses = unified.losses(x, draws)
        means.append(losses.latent.mean().item() / 64)
        kl.append(losses.kl_1.mean().item() / 64)
    found = torch.tensor(means, dtype=torch.float64)
    alpha2, sigma2 = level(lambda_min)
    v = alpha2 * std**2 + sigma2
    want = 0.5 * math.log1p(std**2 * math.exp(5)) + 0.5 * (v - 1 - math.log(v))
    error = found.std().item() / math.sqrt(16)
    assert error < 0.003 * want
    assert abs(found.mean().item() - want) < 4.5 * error
    kl_want = 0.5 * (alpha2 * std**2 + sigma2 - 1 - math.log(sigma2))
    assert sum(kl) / 16 == pytest.approx(kl_want, rel=0.01)


def test_each_term_row_by_row(flat: UnifiedConfig) -> None:
    """Networks that predict v̂ = 0, so ẑ = α z_t and ε̂ = σ x_t: every row by hand in fp64."""
    unified = planted(flat, 0.7, Recorder(), Recorder())
    generator = torch.Generator().manual_seed(5)
    draws = Draws.sample(flat, 6, generator)
    x = torch.randn(6, 4, 4, 4, generator=generator)
    losses = unified.losses(x, draws)
    schedule = flat.image_schedule
    for i in range(6):
        z, eps_z, pixels, eps_x = (a[i].double() for a in (0.7 * x, draws.eps_z, x, draws.eps_x))
        lam = 5 - 15 * draws.t_z[i].item()
        a2, s2 = level(lam)
        z_hat = math.sqrt(a2) * (math.sqrt(a2) * z + math.sqrt(s2) * eps_z)
        latent = 0.5 * 15 * math.exp(lam) * (z - z_hat).square().sum().item()
        a2_1, s2_1 = level(-10)
        kl_1 = 0.5 * (a2_1 * z.square() + s2_1 - 1 - math.log(s2_1)).sum().item()
        t_x = draws.t_x[i].double()
        lam, rate = schedule.log_snr(t_x).item(), schedule.rate(t_x).item()
        a2, s2 = level(lam)
        eps_hat = math.sqrt(s2) * (math.sqrt(a2) * pixels + math.sqrt(s2) * eps_x)
        weight = flat.loss_factor / (1 + math.exp(lam - flat.decoder_bias))
        image = weight * 0.5 * rate * (eps_x - eps_hat).square().sum().item()
        assert losses.kl_1[i].item() == pytest.approx(kl_1, rel=1e-4)
        assert losses.latent[i].item() == pytest.approx(latent + kl_1, rel=1e-4)
        assert losses.image[i].item() == pytest.approx(image, rel=1e-4)


def test_what_each_network_is_given(flat: UnifiedConfig) -> None:
    """P gets z_t with its own ε; D gets x_t with its own, and z_0 at λ(0) with a third one."""
    prior, decoder = Recorder(), Recorder()
    unified = planted(flat, 0.7, prior, decoder)
    draws = Draws.sample(flat, 5, torch.Generator().manual_seed(1))
    x = torch.randn(5, 4, 4, 4)
    unified.losses(x, draws)
    z_t, log_snr = prior.seen
    torch.testing.assert_close(log_snr, 5 - 15 * draws.t_z)
    a, s = (torch.sigmoid(sign * log_snr).sqrt().reshape(-1, 1, 1, 1) for sign in (1, -1))
    torch.testing.assert_close(z_t, a * 0.7 * x + s * draws.eps_z)
    x_t, log_snr, z_0 = decoder.seen
    torch.testing.assert_close(log_snr, flat.image_schedule.log_snr(draws.t_x))
    a, s = (torch.sigmoid(sign * log_snr).sqrt().reshape(-1, 1, 1, 1) for sign in (1, -1))
    torch.testing.assert_close(x_t, a * x + s * draws.eps_x)
    torch.testing.assert_close(z_0, 0.996648 * 0.7 * x + 0.081810 * draws.eps_0, atol=1e-5, rtol=0)


def test_noise_latent_is_z_0(tiny: UnifiedConfig) -> None:
    z, eps = torch.randn(2, 3, *tiny.latent_shape)
    got = UnifiedLatents(tiny).noise_latent(z, eps)
    torch.testing.assert_close(got, 0.996648 * z + 0.081810 * eps, atol=1e-5, rtol=0)


def test_latent_bound_is_the_latent_term_without_kl(tiny: UnifiedConfig, awaken: Awaken) -> None:
    unified, draws, x = awake_case(tiny, awaken)
    losses = unified.losses(x, draws)
    z, schedule = unified.encoder(x), unified.config.latent_schedule
    bound = latent_bound(unified.prior, schedule, z, draws.t_z, draws.eps_z)
    torch.testing.assert_close(losses.kl_1, kl_to_standard_normal(z, schedule.lambda_min))
    torch.testing.assert_close(losses.latent, bound + losses.kl_1)


def test_the_loss_factor_and_the_bias_touch_the_image_alone(
    tiny: UnifiedConfig, awaken: Awaken
) -> None:
    unified, draws, x = awake_case(tiny, awaken)
    once = unified.losses(x, draws)
    config = unified.config
    unified.config = replace(config, loss_factor=2 * config.loss_factor)
    twice = unified.losses(x, draws)
    unified.config = replace(config, decoder_bias=config.decoder_bias + 1)
    raised = unified.losses(x, draws)
    torch.testing.assert_close(twice.image, 2 * once.image)
    assert (raised.image > once.image).all()
    for other in (twice, raised):
        assert torch.equal(other.latent, once.latent)


def awake_case(config: UnifiedConfig, awaken: Awaken) -> tuple[UnifiedLatents, Draws, Tensor]:
    unified = awaken(UnifiedLatents(replace(config, latent_schedule=LinearSchedule(-2.0, 5.0))))
    draws = Draws.sample(config, 4, torch.Generator().manual_seed(3))
    return unified, draws, torch.randn(4, *config.image_shape)


def gradients(
    unified: UnifiedLatents, part: str, total: Callable[[Losses], Tensor], run: Losses
) -> Tensor:
    """The gradient of a sum of losses into one network, as one vector."""
    parameters = list(unified.get_submodule(part).parameters())
    found = torch.autograd.grad(
        total(run), parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in found])


def latent(losses: Losses) -> Tensor:
    return losses.latent.sum()


def image(losses: Losses) -> Tensor:
    return losses.image.sum()


TERMS: dict[str, Callable[[Losses], Tensor]] = {
    "latent": latent,
    "image": image,
    "kl_1": lambda losses: losses.kl_1.sum(),
}


def both(losses: Losses) -> Tensor:
    return latent(losses) + image(losses)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_encoder_weight_scales_one_gradient_and_nothing_else(
    any_tiny: UnifiedConfig, awaken: Awaken, weight: float
) -> None:
    """∂L_z/∂E (KL_1 in it) times the weight; L_x into E, and all into P and D, as they were."""
    unified, draws, x = awake_case(any_tiny, awaken)
    plain, scaled = unified.losses(x, draws), unified.losses(x, draws, weight)
    for before, after in zip(plain, scaled, strict=True):
        assert torch.equal(before, after)
    into_encoder = gradients(unified, "encoder", latent, plain)
    tolerance = 1e-5 * into_encoder.norm().item()
    torch.testing.assert_close(
        gradients(unified, "encoder", latent, scaled),
        weight * into_encoder,
        rtol=1e-4,
        atol=tolerance,
    )
    for part, total in [
        ("encoder", image), ("prior", both), ("prior", latent), ("decoder", both)
    ]:  # fmt: skip
        before, after = (gradients(unified, part, total, run) for run in (plain, scaled))
        assert before.norm() > 0
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6 * before.norm().item())


def test_whose_gradient_reaches_whom(any_tiny: UnifiedConfig, awaken: Awaken) -> None:
    """L_z: E and P. L_x: E (through z_0) and D. KL_1: E alone."""
    unified, draws, x = awake_case(any_tiny, awaken)
    run = unified.losses(x, draws)
    reached = {
        (name, part)
        for name in TERMS
        for part in ("encoder", "prior", "decoder")
        if gradients(unified, part, TERMS[name], run).any()
    }
    assert reached == {
        ("latent", "encoder"),
        ("latent", "prior"),
        ("image", "encoder"),
        ("image", "decoder"),
        ("kl_1", "encoder"),
    }


def test_scale_gradient() -> None:
    x = torch.randn(1000, requires_grad=True)
    for weight in (0.0, 0.37, 1.0):
        scaled = scale_gradient(x, weight)
        assert torch.equal(scaled, x)
        (gradient,) = torch.autograd.grad(scaled.sum(), x)
        torch.testing.assert_close(gradient, torch.full_like(x, weight))


def test_losses_are_one_number_a_row_and_rows_are_alone(
    any_tiny: UnifiedConfig, awaken: Awaken
) -> None:
    unified, draws, x = awake_case(any_tiny, awaken)
    before = unified.losses(x, draws)
    x[1] = torch.randn_like(x[1])
    after = unified.losses(x, draws)
    for a, b in zip(before[:3], after[:3], strict=True):
        assert a.shape == (4,)
        assert a.dtype == torch.float32
        assert torch.equal(a[[0, 2, 3]], b[[0, 2, 3]])
        assert a[1] != b[1]
