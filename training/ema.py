"""The exponential moving average of the weights: what is sampled from, measured and shipped.

    θ̄ ← d θ̄ + (1 − d) θ,   d = min(d_max, (1 + i) / (10 + i))

The ramp lets the average forget the random start.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def decay(step: int, limit: float) -> float:
    """d at step i (the first step is 0)."""
    return min(limit, (1 + step) / (10 + step))


class Ema:
    """A second copy of a module, in evaluation mode, that follows the first."""

    def __init__(self, module: nn.Module, limit: float) -> None:
        if not 0 <= limit < 1:
            raise ValueError(f"the EMA decay must lie in [0, 1), got {limit}")
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.limit = limit

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow `module` after its step `step`."""
        weight = 1 - decay(step, self.limit)
        averages = tuple(self.module.parameters())
        torch._foreach_lerp_(averages, tuple(module.parameters()), weight)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, by name."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        self.module.load_state_dict(state)
