from __future__ import annotations

import torch

from unified_latents.kernels import noise
from unified_latents.models.sampling import Stage
from unified_latents.service.stepper.walk import Noise


def test_blocks_of_noise_are_the_noise_of_each_step() -> None:
    """A shape so large that a block holds two steps, and one where it holds all of them."""
    for shape in ((2**17,), (4, 8)):
        drawn = Noise(5, 3, Stage.DECODE, shape, 5, "cpu")
        seed, sample = torch.tensor([5]), torch.tensor([3])
        for step in (0, 1, 2, 4, 1):
            size = torch.Size(shape).numel()
            alone = noise.normal(seed, sample, torch.tensor([step]), Stage.DECODE, size)
            assert torch.equal(drawn.at(step), alone.reshape(shape))
