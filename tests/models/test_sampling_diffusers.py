"""Our samplers against the numbers of diffusers' schedulers, step by step.

Their schedulers know a table `alphas_cumprod` over integer timesteps; ours know λ. The table here
holds our own levels, cleanest first, in fp64, so timestep k is the k-th level from λ(0). Each
timestep is visited once, so "the previous timestep" is always k − 1:

- DDPM: no set_timesteps, or as many as in training, means k → k − 1; below 0 lies ᾱ = 1.
- DDIM: num_inference_steps = the table's length, so the stride is 1; below 0 lies ᾱ = 1 too.
- DPM-Solver multistep: linspace spacing visits N … 1 of a table 0 … N and then ends at the
  table's first level (`sigma_min`) or at σ = 0 (`zero`), where it falls to first order. It hands
  a tensor to numpy in a way that numpy 2 warns of: the one warning that is let through below.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from unified_latents.models.sampling import Plan, State, advance, plan
from unified_latents.models.schedule import CosineSchedule, LinearSchedule, Schedule

_SCHEDULES: list[Schedule] = [LinearSchedule(-10.0, 5.0), CosineSchedule(-10.0, 10.0)]
_SHAPE = (3, 2, 4)

every_schedule = pytest.mark.parametrize("schedule", _SCHEDULES, ids=["linear", "cosine"])
every_end = pytest.mark.parametrize("to_mean", [False, True], ids=["to_noise", "to_mean"])


def table(schedule: Schedule, steps: int, *, to_mean: bool) -> Tensor:
    """ᾱ = α² at the levels that have a timestep, cleanest first; the mean itself has none."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return torch.sigmoid(schedule.log_snr(t))[1 if to_mean else 0 :]


def betas(alphas_cumprod: Tensor) -> np.ndarray:
    """What the constructors ask for; its fp32 product is replaced by the table afterwards."""
    before = torch.cat((torch.ones(1).double(), alphas_cumprod[:-1]))
    return (1 - alphas_cumprod / before).numpy()


def model_output(k: int) -> Tensor:
    """The same arbitrary v̂ for both sides: no denoiser is needed to compare two step rules."""
    return torch.randn(_SHAPE, generator=torch.Generator().manual_seed(k), dtype=torch.float64)


def step(state: State, k: int, plan_: Plan, eps: Tensor) -> State:
    n = _SHAPE[0]
    return advance(
        state,
        model_output(k),
        plan_.log_snr[k].double().expand(n),
        plan_.coefficients[k].double().expand(n, 4),
        eps,
        clip=False,
    )


def start() -> State:
    return State(model_output(1000), torch.zeros(_SHAPE, dtype=torch.float64))


def close(ours: Tensor, theirs: Tensor) -> None:
    """Our plan is rounded to fp32 once: 1e-6 of values of order 10."""
    torch.testing.assert_close(ours, theirs, rtol=5e-6, atol=5e-6)


@every_schedule
@every_end
@pytest.mark.parametrize("steps", [1, 8])
def test_ancestral_is_ddpm(schedule: Schedule, to_mean: bool, steps: int) -> None:
    levels = table(schedule, steps, to_mean=to_mean)
    theirs = DDPMScheduler(
        num_train_timesteps=len(levels),
        trained_betas=betas(levels),
        variance_type="fixed_small",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    theirs.alphas_cumprod = levels
    plan_, state = plan(schedule, steps, "ancestral", to_mean=to_mean), start()
    x = state.x_t
    first = len(levels) - 1
    for k in range(steps):
        noise = torch.Generator().manual_seed(500 + k)
        eps = torch.randn(_SHAPE, generator=noise, dtype=torch.float64)
        again = torch.Generator().manual_seed(500 + k)
        x = theirs.step(model_output(k), first - k, x, generator=again).prev_sample
        state = step(state, k, plan_, eps)
        close(state.x_t, x)


@every_schedule
@every_end
@pytest.mark.parametrize("steps", [1, 8])
def test_ddim(schedule: Schedule, to_mean: bool, steps: int) -> None:
    levels = table(schedule, steps, to_mean=to_mean)
    theirs = DDIMScheduler(
        num_train_timesteps=len(levels),
        trained_betas=betas(levels),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    theirs.set_timesteps(len(levels))
    theirs.alphas_cumprod = levels
    plan_, state = plan(schedule, steps, "ddim", to_mean=to_mean), start()
    x = state.x_t
    first = len(levels) - 1
    for k in range(steps):
        output = theirs.step(model_output(k), first - k, x, eta=0.0)
        state = step(state, k, plan_, torch.randn(_SHAPE))
        x = output.prev_sample
        close(state.x_t, x)
        close(state.previous, output.pred_original_sample)


@every_schedule
@every_end
@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dpmpp_2m(schedule: Schedule, to_mean: bool, steps: int) -> None:
    whole = table(schedule, steps, to_mean=False)
    theirs = DPMSolverMultistepScheduler(
        num_train_timesteps=len(whole),
        trained_betas=betas(whole),
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        prediction_type="v_prediction",
        lower_order_final=False,
        euler_at_final=False,
        final_sigmas_type="zero" if to_mean else "sigma_min",
        timestep_spacing="linspace",
    )
    theirs.alphas_cumprod = whole
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == list(range(steps, 0, -1))
    plan_, state = plan(schedule, steps, "dpmpp-2m", to_mean=to_mean), start()
    x = state.x_t
    for k, timestep in enumerate(theirs.timesteps):
        x = theirs.step(model_output(k), timestep, x).prev_sample
        state = step(state, k, plan_, torch.randn(_SHAPE))
        close(state.x_t, x)
