"""Diffusion mathematics against closed forms (arXiv 2602.17270)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from unified_latents.models.diffusion import (
    alpha,
    diffuse,
    elbo,
    eps_from_v,
    kl_to_standard_normal,
    sigma,
    sigmoid_weighted,
    velocity,
    x_from_v,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule, Schedule

_LATENT = LinearSchedule(-10.0, 5.0)
_IMAGE = CosineSchedule(-10.0, 10.0)


class Case:
    """64 samples of [3, 4], each at its own t, with an arbitrary prediction v̂; all fp64."""

    def __init__(self, schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x, self.eps, self.v_hat = (
            torch.randn(64, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        self.t = torch.rand(64, generator=generator, dtype=torch.float64)
        self.log_snr = schedule.log_snr(self.t)
        self.rate = schedule.rate(self.t)
        self.x_t = diffuse(self.x, self.eps, self.log_snr)
        self.v = velocity(self.x, self.eps, self.log_snr)
        self.x_hat = x_from_v(self.x_t, self.v_hat, self.log_snr)
        self.eps_hat = eps_from_v(self.x_t, self.v_hat, self.log_snr)


@pytest.fixture(params=[_LATENT, _IMAGE], ids=["linear", "cosine"])
def schedule(request: pytest.FixtureRequest) -> Schedule:
    chosen: Schedule = request.param
    return chosen


@pytest.fixture
def case(schedule: Schedule) -> Case:
    return Case(schedule)


def error2(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum((1, 2))


def test_alpha_and_sigma_are_variance_preserving_and_give_lambda() -> None:
    log_snr = torch.linspace(-20, 20, 81, dtype=torch.float64)
    a, s = alpha(log_snr), sigma(log_snr)
    torch.testing.assert_close(a**2 + s**2, torch.ones_like(a))
    torch.testing.assert_close(torch.log(a**2 / s**2), log_snr)


def test_alpha_and_sigma_at_the_ends() -> None:
    """λ = 5 as computed by hand, and λ = +∞, where the decoder ends."""
    levels = torch.tensor([5.0, torch.inf, -torch.inf])
    torch.testing.assert_close(alpha(levels), torch.tensor([0.99665, 1, 0]), rtol=0, atol=5e-6)
    torch.testing.assert_close(sigma(levels), torch.tensor([0.08181, 0, 1]), rtol=0, atol=5e-6)


def test_diffuse_and_velocity_are_their_definitions(case: Case) -> None:
    for i in range(3):
        a, s = (math.sqrt(1 / (1 + math.exp(sign * case.log_snr[i].item()))) for sign in (-1, 1))
        torch.testing.assert_close(case.x_t[i], a * case.x[i] + s * case.eps[i])
        torch.testing.assert_close(case.v[i], a * case.eps[i] - s * case.x[i])


def test_the_true_velocity_gives_back_x_and_eps(case: Case) -> None:
    torch.testing.assert_close(x_from_v(case.x_t, case.v, case.log_snr), case.x)
    torch.testing.assert_close(eps_from_v(case.x_t, case.v, case.log_snr), case.eps)


def test_any_prediction_is_consistent(case: Case) -> None:
    """x̂ and ε̂ from one v̂ explain x_t, and give that v̂ again."""
    torch.testing.assert_close(diffuse(case.x_hat, case.eps_hat, case.log_snr), case.x_t)
    torch.testing.assert_close(velocity(case.x_hat, case.eps_hat, case.log_snr), case.v_hat)


def test_errors_of_the_three_predictions(case: Case) -> None:
    """‖x−x̂‖² = σ² ‖v−v̂‖²,  ‖ε−ε̂‖² = α² ‖v−v̂‖² = e^λ ‖x−x̂‖²."""
    in_v, in_x, in_eps = (
        error2(case.v, case.v_hat),
        error2(case.x, case.x_hat),
        error2(case.eps, case.eps_hat),
    )
    torch.testing.assert_close(in_x, torch.sigmoid(-case.log_snr) * in_v)
    torch.testing.assert_close(in_eps, torch.sigmoid(case.log_snr) * in_v)
    torch.testing.assert_close(in_eps, case.log_snr.exp() * in_x)


def test_elbo_in_three_parameterisations(case: Case, schedule: Schedule) -> None:
    """½ (−dλ/dt) times e^λ‖x−x̂‖², ‖ε−ε̂‖², α²‖v−v̂‖²: one number."""
    got = elbo(case.v, case.v_hat, case.t, schedule).double()
    half = 0.5 * case.rate
    in_x = half * case.log_snr.exp() * error2(case.x, case.x_hat)
    in_eps = half * error2(case.eps, case.eps_hat)
    in_v = half * torch.sigmoid(case.log_snr) * error2(case.v, case.v_hat)
    for want in (in_x, in_eps, in_v):
        torch.testing.assert_close(got, want, rtol=2e-6, atol=0)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0, 6.5])
def test_sigmoid_weight_on_eps_and_on_x(case: Case, schedule: Schedule, bias: float) -> None:
    """sigmoid(b − λ) on the ε-MSE; on the x-MSE the same weight is e^b sigmoid(λ − b)."""
    got = sigmoid_weighted(case.v, case.v_hat, case.t, schedule, bias).double()
    half = 0.5 * case.rate
    on_eps = half * torch.sigmoid(bias - case.log_snr) * error2(case.eps, case.eps_hat)
    weight = math.exp(bias) * torch.sigmoid(case.log_snr - bias)
    on_x = half * weight * error2(case.x, case.x_hat)
    torch.testing.assert_close(got, on_eps, rtol=2e-6, atol=0)
    torch.testing.assert_close(got, on_x, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("loss_factor", "bias"), [(1.3, 0.0), (2.0, 2.0), (5.0, -1.0)])
def test_break_even_level(loss_factor: float, bias: float) -> None:
    """At λ* = b + ln(c_lf − 1) the decoder charges what the latent does; noisier, more."""
    star = bias + math.log(loss_factor - 1)
    log_snr = torch.tensor([star - 0.1, star, star + 0.1], dtype=torch.float64)
    t = (log_snr - _LATENT.lambda_max) / (_LATENT.lambda_min - _LATENT.lambda_max)
    v, v_hat = torch.ones(3, 5), torch.zeros(3, 5)
    ratio = loss_factor * sigmoid_weighted(v, v_hat, t, _LATENT, bias) / elbo(v, v_hat, t, _LATENT)
    assert ratio[1].item() == pytest.approx(1, abs=1e-9)
    assert ratio[0] > 1.01
    assert ratio[2] < 0.99


def test_no_level_favours_the_latent_at_a_loss_factor_of_one() -> None:
    t = torch.linspace(0, 1, 50)
    v, v_hat = torch.ones(50, 5), torch.zeros(50, 5)
    assert (sigmoid_weighted(v, v_hat, t, _LATENT, 0.0) < elbo(v, v_hat, t, _LATENT)).all()


def test_losses_are_sums_over_dimensions(case: Case, schedule: Schedule) -> None:
    """Twice the dimensions, twice the loss; each sample alone."""
    v, v_hat = (torch.cat((a, a), 1) for a in (case.v, case.v_hat))
    for once, twice in [
        (elbo(case.v, case.v_hat, case.t, schedule), elbo(v, v_hat, case.t, schedule)),
        (
            sigmoid_weighted(case.v, case.v_hat, case.t, schedule, 1.0),
            sigmoid_weighted(v, v_hat, case.t, schedule, 1.0),
        ),
        (
            kl_to_standard_normal(case.x, -1.0),
            kl_to_standard_normal(torch.cat((case.x, case.x), 2), -1.0),
        ),
    ]:
        assert once.shape == (64,)
        torch.testing.assert_close(twice, 2 * once, rtol=1e-6, atol=0)


@pytest.mark.parametrize("log_snr", [-15.0, -10.0, -6.0, -2.0, 0.0, 5.0])
def test_kl_against_torch_distributions(log_snr: float) -> None:
    x = torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(1))
    level = torch.tensor(log_snr, dtype=torch.float64)
    p = Normal(torch.sigmoid(level).sqrt() * x.double(), torch.sigmoid(-level).sqrt())
    want = kl_divergence(p, Normal(torch.zeros(1).double(), torch.ones(1).double())).sum((1, 2))
    got = kl_to_standard_normal(x, log_snr).double()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-12)


def test_kl_of_zero_is_the_variance_term_alone() -> None:
    """½ (σ² − 1 − ln σ²) ≈ α⁴/4 at λ = −10: 5e-10, which fp32 arithmetic would lose."""
    got = kl_to_standard_normal(torch.zeros(1, 1), -10.0).item()
    assert got == pytest.approx(torch.sigmoid(torch.tensor(-10.0)).item() ** 2 / 4, rel=1e-3)


def _hermite() -> tuple[Tensor, Tensor]:
    """Nodes and probability weights of N(0, 1), exact for polynomials up to degree 7."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def bound_of_a_gaussian(std: float, schedule: LinearSchedule, denoiser: torch.nn.Module) -> float:
    """E[L_z] for one dimension z ~ N(0, std²) by quadrature over z, ε and t through `elbo`."""
    nodes, weights = _hermite()
    z, eps = (grid.reshape(-1, 1) for grid in torch.meshgrid(std * nodes, nodes, indexing="ij"))
    weight = torch.outer(weights, weights).flatten()
    points, masses = np.polynomial.legendre.leggauss(64)
    total = float((weight * kl_to_standard_normal(z, schedule.lambda_min)).sum())
    for point, mass in zip((points + 1) / 2, masses / 2, strict=True):
        t = torch.full((len(z),), point, dtype=torch.float64)
        log_snr = schedule.log_snr(t)
        v_hat = denoiser(diffuse(z, eps, log_snr), log_snr)
        integrand = elbo(velocity(z, eps, log_snr), v_hat, t, schedule)
        total += mass * float((weight * integrand).sum())
    return total


def closed_form(std: float, lambda_min: float) -> float:
    """½ ln(1 + s² e⁵) + ½ (v − 1 − ln v), v = α_1² s² + σ_1²."""
    alpha2 = 1 / (1 + math.exp(-lambda_min))
    v = alpha2 * std**2 + 1 - alpha2
    return 0.5 * math.log1p(std**2 * math.exp(5)) + 0.5 * (v - 1 - math.log(v))


@pytest.mark.parametrize("lambda_min", [-10.0, -6.0, -2.0])
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_gaussian_identity_by_quadrature(
    std: float, lambda_min: float, gaussian: type[torch.nn.Module]
) -> None:
    got = bound_of_a_gaussian(std, LinearSchedule(lambda_min, 5.0), gaussian(std))
    assert got == pytest.approx(closed_form(std, lambda_min), rel=1e-6)


@pytest.mark.parametrize(
    ("std", "lambda_min", "nats"),
    [(0.5, -10.0, 1.8202), (1.0, -10.0, 2.5034), (2.0, -10.0, 3.1940), (2.0, -2.0, 3.220)],
)
def test_gaussian_identity_as_printed(
    std: float, lambda_min: float, nats: float, gaussian: type[torch.nn.Module]
) -> None:
    got = bound_of_a_gaussian(std, LinearSchedule(lambda_min, 5.0), gaussian(std))
    assert got == pytest.approx(nats, abs=6e-5 if lambda_min == -10 else 6e-4)


def test_a_wrong_denoiser_pays_more_than_the_identity(gaussian: type[torch.nn.Module]) -> None:
    """The bound is minimal at the true posterior mean: a belief in another variance costs bits."""
    for belief in (0.5, 2.0):
        got = bound_of_a_gaussian(1.0, _LATENT, gaussian(belief))
        assert got > closed_form(1.0, -10) + 0.01


def test_a_unit_dimension_carries_at_most_3_61_bits(gaussian: type[torch.nn.Module]) -> None:
    bits = bound_of_a_gaussian(1.0, _LATENT, gaussian(1.0)) / math.log(2)
    assert bits == pytest.approx(3.61, abs=0.005)
