"""A sample's trajectory between two passes, and the noise along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from unified_latents.kernels.dispatch import normal
from unified_latents.kernels.noise import Keys
from unified_latents.models import sampling
from unified_latents.models.sampling import Plan, Stage, State
from unified_latents.service.engine.messages import Trajectory
from unified_latents.service.stepper.catalogue import Model

_NOISE_BLOCK = 2**14
"""Elements of noise drawn at once: many steps cost little more than one, but every sample on
its way holds a block."""
_plan = lru_cache(maxsize=256)(sampling.plan)


@dataclass(eq=False)
class Noise:
    """The noise of one sample in one stage: [draws, *shape], drawn in blocks, in their order."""

    seed: int
    sample: int
    stage: Stage
    shape: tuple[int, ...]
    draws: int
    device: str
    _block: Tensor | None = None
    _first: int = 0

    def at(self, step: int) -> Tensor:
        """Step 0 is the start; step k + 1 the noise of step k."""
        if step == 0:
            return self._draw(0, 1)[0]
        if self._block is None or not self._first <= step < self._first + len(self._block):
            length = max(1, min(self.draws - step, _NOISE_BLOCK // math.prod(self.shape)))
            self._first, self._block = step, self._draw(step, length)
        return self._block[step - self._first]

    def _draw(self, first: int, length: int) -> Tensor:
        steps = torch.arange(first, first + length, device=self.device)
        seed, sample = torch.full_like(steps, self.seed), torch.full_like(steps, self.sample)
        drawn = normal(Keys(seed, sample, steps, self.stage), math.prod(self.shape))
        return drawn.reshape(length, *self.shape)


@dataclass(eq=False)
class Walk:
    """A denoising trajectory between two passes."""

    plan: Plan
    noise: Noise
    state: State
    step: int = 0

    @property
    def log_snr(self) -> float:
        return self.plan.levels[self.step]

    @property
    def coefficients(self) -> Tensor:
        return self.plan.coefficients[self.step]

    @property
    def eps(self) -> Tensor:
        """Of this step; nothing is drawn after the last that adds any."""
        more = self.step + 1 < self.plan.draws
        return self.noise.at(self.step + 1) if more else torch.zeros_like(self.state.x_t)

    @property
    def ended(self) -> bool:
        return self.step == self.plan.steps


@dataclass(frozen=True)
class WalkNoise:
    """The noise of one step of several walks: a kernel takes the keys, the reference the blocks."""

    walks: Sequence[Walk]

    @property
    def keys(self) -> Keys:
        """Of walks in one stage."""
        rows = [(walk.noise.seed, walk.noise.sample, walk.step + 1) for walk in self.walks]
        first = self.walks[0]
        seed, sample, step = torch.tensor(rows, device=first.noise.device).unbind(1)
        return Keys(seed, sample, step, first.noise.stage)

    def normal(self, like: Tensor) -> Tensor:
        return torch.stack([walk.eps for walk in self.walks])


def walk(
    model: Model, stage: Stage, how: Trajectory, seed: int, sample: int, frames: int | None = None
) -> Walk:
    """A trajectory at its start, x_1 ~ N(0, I), of `frames` where not of the model's own."""
    config = model.unified.config
    if stage is Stage.BASE:
        plan = _plan(config.latent_schedule, how.steps, how.sampler, to_mean=False)
        shape = config.latent_shape
    else:
        plan = _plan(config.image_schedule, how.steps, how.sampler, to_mean=True)
        shape = config.image_shape
        if frames is not None:
            shape = (shape[0], frames, *shape[2:])
    drawn = Noise(seed, sample, stage, shape, plan.draws, model.device)
    start = drawn.at(0)
    return Walk(plan, drawn, State(start, torch.zeros_like(start)))
