"""Samplers: how a trajectory runs and ends, and that rows are independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import nn

from unified_latents.models.diffusion import x_from_v
from unified_latents.models.sampling import (
    SAMPLERS,
    NoiseKeys,
    Plan,
    SamplerName,
    Stage,
    State,
    advance,
    guide,
    plan,
    sample,
    trajectory,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule

_LATENT = LinearSchedule(-10.0, 5.0)
_IMAGE = CosineSchedule(-10.0, 10.0)
_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)

Gaussian = Callable[..., nn.Module]
every_sampler = pytest.mark.parametrize("name", _NAMES)


def keys(n: int, seed: int = 3, stage: Stage = Stage.BASE) -> NoiseKeys:
    return NoiseKeys(torch.full((n,), seed), torch.arange(n), stage)


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_the_decoder_returns_its_mean(name: SamplerName, steps: int, gaussian: Gaussian) -> None:
    """To λ = +∞ the last step is x̂ to the bit, and no noise survives it."""
    denoiser = gaussian(0.5, 0.2)
    plan_ = plan(_IMAGE, steps, name, to_mean=True)
    *_, before, last = [
        State(keys(6).normal(0, (5,)), torch.zeros(6, 5)),
        *trajectory(denoiser, keys(6), (5,), plan_, clip=False),
    ]
    log_snr = plan_.log_snr[-1].expand(6)
    x_hat = x_from_v(before.x_t, denoiser(before.x_t, log_snr), log_snr)
    assert torch.equal(last.x_t, x_hat)
    assert torch.equal(last.x_t, last.previous)


@every_sampler
def test_the_decoder_ends_on_a_point_mass_exactly(name: SamplerName, gaussian: Gaussian) -> None:
    x = sample(gaussian(0.0, 0.7), keys(4), (8,), plan(_IMAGE, 10, name, to_mean=True), clip=False)
    torch.testing.assert_close(x, torch.full((4, 8), 0.7), rtol=0, atol=1e-5)


def test_only_the_ancestral_sampler_adds_noise_and_only_2m_looks_back() -> None:
    for name in _NAMES:
        _, _, previous, noise = plan(_LATENT, 10, name, to_mean=False).coefficients.unbind(-1)
        assert (noise > 0).all().item() == (name == "ancestral")
        assert (noise == 0).all().item() == (name != "ancestral")
        assert previous[0] == 0
        assert (previous[1:] < 0).all().item() == (name == "dpmpp-2m")


def test_first_step_of_2m_is_ddim() -> None:
    first = [plan(_LATENT, 10, n, to_mean=False).coefficients[0] for n in ("dpmpp-2m", "ddim")]
    assert torch.equal(*first)


@every_sampler
def test_plan_runs_from_pure_noise_and_never_evaluates_the_clean_end(name: SamplerName) -> None:
    got = plan(_LATENT, 5, name, to_mean=False)
    assert got.steps == 5
    torch.testing.assert_close(got.log_snr, torch.tensor([-10.0, -7, -4, -1, 2]))
    assert got.coefficients.isfinite().all()


@pytest.mark.parametrize(
    ("name", "to_mean", "draws"),
    [("ancestral", False, 6), ("ancestral", True, 5), ("ddim", True, 1), ("dpmpp-2m", False, 1)],
)
def test_no_noise_is_drawn_that_no_step_adds(name: SamplerName, to_mean: bool, draws: int) -> None:
    """The start, and a step's: none for the last where that gives the mean."""
    plan_ = plan(_LATENT, 5, name, to_mean=to_mean)
    assert plan_.draws == draws
    assert not plan_.coefficients[draws - 1 :, 3].any()
    assert torch.tensor(plan_.levels).equal(plan_.log_snr)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        plan(_LATENT, steps, "ddim", to_mean=False)


def test_the_names_are_the_samplers() -> None:
    assert set(SAMPLERS) == set(_NAMES)


def test_clip_holds_x_hat_to_the_data_range(gaussian: Gaussian) -> None:
    """A denoiser that believes in 3 is held to 1, in the step and in the history."""
    plan_ = plan(_IMAGE, 4, "dpmpp-2m", to_mean=True)
    for state in trajectory(gaussian(0.0, 3.0), keys(2), (4,), plan_, clip=True):
        assert torch.equal(state.previous, torch.ones(2, 4))
    assert torch.equal(state.x_t, torch.ones(2, 4))
    free = sample(gaussian(0.0, -3.0), keys(2), (4,), plan_, clip=False)
    torch.testing.assert_close(free, torch.full((2, 4), -3.0), rtol=0, atol=1e-4)


def test_guidance() -> None:
    generator = torch.Generator().manual_seed(0)
    cond, uncond = (torch.randn(5, 2, 3, generator=generator) for _ in range(2))
    w = torch.tensor([0.0, 1.0, 2.0, 1.5, -1.0])
    got = guide(cond, uncond, w)
    assert torch.equal(got[0], uncond[0])
    torch.testing.assert_close(got[1], cond[1])
    torch.testing.assert_close(got[2], 2 * cond[2] - uncond[2])
    torch.testing.assert_close(got[3], 1.5 * cond[3] - 0.5 * uncond[3])
    torch.testing.assert_close(got[4], 2 * uncond[4] - cond[4])


def test_guiding_v_is_guiding_x_hat() -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, cond, uncond = (torch.randn(4, 6, generator=generator) for _ in range(3))
    log_snr, w = torch.tensor([-4.0, -1.0, 1.0, 4.0]), torch.tensor([0.5, 1.0, 2.0, 4.0])
    in_v = x_from_v(x_t, guide(cond, uncond, w), log_snr)
    in_x = guide(x_from_v(x_t, cond, log_snr), x_from_v(x_t, uncond, log_snr), w)
    torch.testing.assert_close(in_v, in_x)


def test_noise_keys_separate_step_sample_seed_and_stage() -> None:
    shape = (2, 3)
    base = NoiseKeys(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), Stage.BASE)
    rows = [
        row
        for step in (0, 1)
        for stage in Stage
        for row in NoiseKeys(base.seed, base.sample, stage).normal(step, shape)
    ]
    assert rows[0].shape == shape
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 2 * len(Stage) * 3


def test_stage_numbers_are_frozen() -> None:
    """A receipt names them: a change would change every image ever replayed."""
    assert {s.name: s.value for s in Stage} == {"BASE": 0, "DECODE": 1, "LATENT": 2, "BITRATE": 3}


def test_the_start_is_step_0_and_step_k_takes_noise_k_plus_1(gaussian: Gaussian) -> None:
    plan_ = plan(_LATENT, 3, "ancestral", to_mean=False)
    denoiser, x = gaussian(1.0), keys(2).normal(0, (4,))
    for k, state in enumerate(trajectory(denoiser, keys(2), (4,), plan_, clip=False)):
        log_snr = plan_.log_snr[k].expand(2)
        x_hat = x_from_v(x, denoiser(x, log_snr), log_snr)
        a, b, _, d = plan_.coefficients[k].tolist()
        x = a * x + b * x_hat + d * keys(2).normal(k + 1, (4,))
        torch.testing.assert_close(state.x_t, x)
        torch.testing.assert_close(state.previous, x_hat)


@every_sampler
def test_batched_equals_one_by_one(name: SamplerName, gaussian: Gaussian) -> None:
    plan_ = plan(_LATENT, 6, name, to_mean=False)
    batch = NoiseKeys(torch.tensor([5, 5, 9]), torch.tensor([0, 1, 0]), Stage.BASE)
    together = sample(gaussian(0.7), batch, (3, 5), plan_, clip=False)
    for i in range(3):
        alone = NoiseKeys(batch.seed[i : i + 1], batch.sample[i : i + 1], Stage.BASE)
        assert torch.equal(sample(gaussian(0.7), alone, (3, 5), plan_, clip=False)[0], together[i])


def test_rows_of_different_samplers_and_steps_share_a_batch(gaussian: Gaussian) -> None:
    """Three requests, each with its own sampler, step count and progress, end as if alone."""
    plans: list[Plan] = [
        plan(_LATENT, 4, "ancestral", to_mean=False),
        plan(_LATENT, 6, "dpmpp-2m", to_mean=False),
        plan(_LATENT, 3, "ddim", to_mean=True),
    ]
    owners = [NoiseKeys(torch.tensor([s]), torch.tensor([s + 1]), Stage.BASE) for s in range(3)]
    denoiser, shape = gaussian(0.8, 0.1), (2, 4)
    states = [State(o.normal(0, shape), torch.zeros(1, *shape)) for o in owners]
    for tick in range(max(p.steps for p in plans)):
        rows = [i for i in range(3) if tick < plans[i].steps]
        gathered = State(
            torch.cat([states[i].x_t for i in rows]), torch.cat([states[i].previous for i in rows])
        )
        log_snr = torch.stack([plans[i].log_snr[tick] for i in rows])
        after = advance(
            gathered,
            denoiser(gathered.x_t, log_snr),
            log_snr,
            torch.stack([plans[i].coefficients[tick] for i in rows]),
            torch.cat([owners[i].normal(tick + 1, shape) for i in rows]),
            clip=False,
        )
        for j, i in enumerate(rows):
            states[i] = State(after.x_t[j : j + 1], after.previous[j : j + 1])
    for owner, plan_, state in zip(owners, plans, states, strict=True):
        assert torch.equal(sample(denoiser, owner, shape, plan_, clip=False), state.x_t)
