"""The base model: hears level and label, trains on z_t made from z_clean, and is guided."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.models.conftest import Awaken, learns_everywhere
from unified_latents.models.base import BaseDraws, BaseModel, guided
from unified_latents.models.config import BaseConfig
from unified_latents.models.sampling import NoiseKeys, Stage, combined, plan, sample


def inputs(config: BaseConfig, n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Labels 0, 1, 2 and the null class 3."""
    return torch.randn(n, *config.latent_shape), torch.linspace(-9, 4, n), torch.arange(n) % 4


def test_starts_at_zero_in_the_shape_of_its_input(any_tiny_base: BaseConfig) -> None:
    z_t, log_snr, label = inputs(any_tiny_base)
    assert torch.equal(BaseModel(any_tiny_base)(z_t, log_snr, label), torch.zeros_like(z_t))


def test_parameters_by_hand(any_tiny_base: BaseConfig) -> None:
    """Two outer blocks of 16 and an inner one of 24, all conditioned on 24; merge and split."""
    space, outer, inner, z = len(any_tiny_base.stride), 16, 24, 4

    def block(w: int) -> int:
        attention = (w * 3 * w + 3 * w) + 2 * 8 + (w * w + w)
        return (inner * 6 * w + 6 * w) + attention + (w * 4 * w + 4 * w) + (4 * w * w + w)

    merged = math.prod(any_tiny_base.stride) * outer
    conditioning = (128 * inner + inner) + (inner * inner + inner) + 4 * inner
    positions = 8 * space * (outer + inner)
    ends = (z * outer + outer) + (inner * 2 * outer + 2 * outer) + (outer * z + z)
    joints = (merged * inner + inner) + (inner * merged + merged) + (2 * outer * outer + outer)
    want = conditioning + positions + ends + joints + 2 * block(outer) + block(inner)
    assert sum(p.numel() for p in BaseModel(any_tiny_base).parameters()) == want


def test_level_and_label_matter(any_tiny_base: BaseConfig, awaken: Awaken) -> None:
    net, (z_t, log_snr, label) = awaken(BaseModel(any_tiny_base)), inputs(any_tiny_base)
    log_snr.requires_grad_()
    out = net(z_t, log_snr, label)
    for other in (net(z_t, log_snr + 1, label), net(z_t, log_snr, (label + 1) % 4)):
        assert (out - other).flatten(1).norm(dim=1).min() > 1e-3
    (gradient,) = torch.autograd.grad(out.square().sum(), log_snr)
    assert (gradient != 0).all()


def test_the_null_class_is_the_last_and_there_is_no_further_one(tiny_base: BaseConfig) -> None:
    net, (z_t, log_snr, _) = BaseModel(tiny_base), inputs(tiny_base)
    net(z_t, log_snr, torch.full((4,), tiny_base.classes))
    with pytest.raises(IndexError):
        net(z_t, log_snr, torch.full((4,), tiny_base.classes + 1))


def test_rows_do_not_see_each_other(any_tiny_base: BaseConfig, awaken: Awaken) -> None:
    net, (z_t, log_snr, label) = awaken(BaseModel(any_tiny_base)), inputs(any_tiny_base)
    before = net(z_t, log_snr, label)
    z_t[1], log_snr[1], label[1] = torch.randn_like(z_t[1]), 3.0, 0
    after = net(z_t, log_snr, label)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.allclose(before[1], after[1])


def test_one_by_one_equals_batched(tiny_base: BaseConfig, awaken: Awaken) -> None:
    net, rows = awaken(BaseModel(tiny_base)), inputs(tiny_base)
    alone = [net(*(column[i : i + 1] for column in rows)) for i in range(4)]
    torch.testing.assert_close(net(*rows), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only(tiny_base: BaseConfig, awaken: Awaken) -> None:
    config = replace(
        tiny_base,
        outer=replace(tiny_base.outer, dropout=0.3),
        inner=replace(tiny_base.inner, dropout=0.3),
    )
    net, rows = awaken(BaseModel(config)), inputs(config)
    assert torch.equal(net(*rows), net(*rows))
    net.train()
    assert not torch.equal(net(*rows), net(*rows))


def test_every_parameter_learns(any_tiny_base: BaseConfig) -> None:
    net, rows = BaseModel(any_tiny_base), inputs(any_tiny_base)
    learns_everywhere(net, lambda: net(*rows))


def caught_z_t(net: BaseModel, z: Tensor, draws: BaseDraws) -> Tensor:
    """What the network is shown while its own loss is computed."""
    caught: list[Tensor] = []
    handle = net.register_forward_pre_hook(lambda _module, given: caught.append(given[0]))
    net.losses(z, torch.zeros(len(z), dtype=torch.int64), draws)
    handle.remove()
    return caught[0]


def test_z_t_carries_exactly_sigma_t_of_noise(tiny_base: BaseConfig) -> None:
    """Var(z_t | z_clean) = σ_t² and mean α_t z_clean at every level: no λ(0) noise underneath."""
    net = BaseModel(replace(tiny_base, outer=replace(tiny_base.outer, depth=0)))
    n, generator = 2000, torch.Generator().manual_seed(4)
    z = torch.randn(tiny_base.latent_shape).expand(n, *tiny_base.latent_shape)
    for t in (0.0, 0.1, 0.5, 0.8, 1.0):
        eps = torch.randn(z.shape, generator=generator)
        z_t = caught_z_t(net, z, BaseDraws(torch.full((n,), t), eps))
        log_snr = torch.tensor(5 - 15 * t, dtype=torch.float64)
        alpha, sigma2 = torch.sigmoid(log_snr).sqrt().item(), torch.sigmoid(-log_snr).item()
        noise = (z_t - alpha * z).double()
        count = noise.numel()
        assert noise.square().mean().item() == pytest.approx(sigma2, rel=4.5 * math.sqrt(2 / count))
        assert abs(noise.mean().item()) < 4.5 * math.sqrt(sigma2 / count)


def test_losses_by_hand(tiny_base: BaseConfig, awaken: Awaken) -> None:
    """Weighted ½ (−dλ/dt) sigmoid(b − λ) ‖ε − ε̂‖² with no loss factor; bound, ½ (−dλ/dt) e^λ …"""
    net, (z, _, label) = awaken(BaseModel(tiny_base)), inputs(tiny_base)
    draws = BaseDraws.sample(tiny_base, 4, torch.Generator().manual_seed(8))
    got = net.losses(z, label, draws)
    log_snr = 5 - 15 * draws.t
    alpha, sigma = (torch.sigmoid(s * log_snr).sqrt().reshape(-1, 1, 1, 1) for s in (1, -1))
    z_t = alpha * z + sigma * draws.eps
    v_hat = net(z_t, log_snr, label)
    eps_hat, z_hat = sigma * z_t + alpha * v_hat, alpha * z_t - sigma * v_hat
    on_eps = (draws.eps - eps_hat).square().flatten(1).sum(1)
    on_z = (z - z_hat).square().flatten(1).sum(1)
    weighted = 7.5 * torch.sigmoid(tiny_base.bias - log_snr) * on_eps
    torch.testing.assert_close(got.weighted, weighted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.bound, 7.5 * log_snr.exp() * on_z, rtol=1e-3, atol=1e-5)
    assert got.weighted.requires_grad
    assert not got.bound.requires_grad


def test_guidance_of_one_is_the_conditional_model(tiny_base: BaseConfig, awaken: Awaken) -> None:
    net, (z_t, _, label) = awaken(BaseModel(tiny_base)), inputs(tiny_base)
    log_snr = torch.zeros(4)
    assert torch.equal(combined(guided(net, label, 1.0)(z_t, log_snr)), net(z_t, log_snr, label))


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 4.0])
def test_guidance_by_hand(tiny_base: BaseConfig, awaken: Awaken, weight: float) -> None:
    """uncond + w (cond − uncond), the null class for the unconditional one."""
    net, (z_t, _, label) = awaken(BaseModel(tiny_base)), inputs(tiny_base)
    log_snr = torch.full((4,), -1.5)
    cond = net(z_t, log_snr, label)
    uncond = net(z_t, log_snr, torch.full((4,), tiny_base.classes))
    want = uncond + weight * (cond - uncond)
    got = combined(guided(net, label, weight)(z_t, log_snr))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("level", "inside"),
    [(-3.25, False), (-3.0, True), (0.0, True), (2.0, True), (2.25, False)],
)
def test_the_interval_is_closed_and_in_lambda(
    tiny_base: BaseConfig, awaken: Awaken, level: float, inside: bool
) -> None:
    """lo ≤ λ_t ≤ hi is guided, both ends included; elsewhere the conditional prediction."""
    net, (z_t, _, label) = awaken(BaseModel(tiny_base)), inputs(tiny_base)
    log_snr = torch.full((4,), level)
    got = combined(guided(net, label, 3.0, (-3.0, 2.0))(z_t, log_snr))
    want = combined(guided(net, label, 3.0 if inside else 1.0)(z_t, log_snr))
    torch.testing.assert_close(got, want)
    other = combined(guided(net, label, 1.0 if inside else 3.0)(z_t, log_snr))
    assert not torch.allclose(got[:3], other[:3])


def test_guidance_moves_samples_and_one_does_not(tiny_base: BaseConfig, awaken: Awaken) -> None:
    """Along a whole trajectory: w = 1 and an interval that is never met change no bit."""
    net, label = awaken(BaseModel(tiny_base)), torch.tensor([0, 1])
    keys = NoiseKeys(torch.tensor([4, 4]), torch.tensor([0, 1]), Stage.BASE)
    steps = plan(tiny_base.schedule, 4, "dpmpp-2m", to_mean=False)
    shape = tiny_base.latent_shape
    with torch.no_grad():
        plain, one, never, two = (
            sample(denoiser, keys, shape, steps, clip=False)
            for denoiser in (
                lambda z_t, log_snr: net(z_t, log_snr, label),
                guided(net, label, 1.0),
                guided(net, label, 2.0, (20.0, 30.0)),
                guided(net, label, 2.0),
            )
        )
    assert torch.equal(plain, one)
    assert torch.equal(plain, never)
    assert not torch.allclose(plain, two)
