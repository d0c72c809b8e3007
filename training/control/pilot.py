"""Between a run and its policies: gathers what they need, at the steps at which they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unified_latents.training.control.bitrate import Controller
from unified_latents.training.control.collapse import Detector

_OFTEN, _SELDOM, _EARLY = 20, 100, 1000


class Probe(NamedTuple):
    """Bits a pixel of one batch, at equal draws."""

    raw: float
    """The rate under the networks as they are."""
    averaged: float
    """… under their moving average."""
    worth: float
    """How much dearer the decoder's loss is with another picture's latent."""


class Pilot:
    """The policies of one stage-1 run; `state_dict` makes them resume exactly."""

    def __init__(
        self, loss_factor: float, controller: Controller | None, detector: Detector
    ) -> None:
        self._fixed, self.controller, self.detector = loss_factor, controller, detector
        self._sum: Tensor | float = 0.0
        self._count = 0

    @property
    def loss_factor(self) -> float:
        """c_lf of the next step."""
        return self._fixed if self.controller is None else self.controller.loss_factor

    def due(self, done: int) -> bool:
        """Every 20 steps while a run is young or c_lf moves, every 100 later."""
        moving = self.controller is not None and done <= self.controller.plan.freeze
        return done % (_OFTEN if moving or done <= _EARLY else _SELDOM) == 0

    def add(self, rate: Tensor) -> None:
        self._sum = self._sum + rate.double()
        self._count += 1

    def follow(self, done: int, probe: Probe, mean: Callable[[Tensor], Tensor]) -> None:
        """Ask the policies; `mean` is over ranks. `TrainingError` on a collapse."""
        rate = float(mean(torch.as_tensor(self._sum) / max(1, self._count)))
        self._sum, self._count = 0.0, 0
        self.detector.observe(done, probe.averaged, probe.worth)
        if self.controller is not None and probe.raw > 0:
            self.controller.observe(done, rate, probe.averaged / probe.raw)

    def figures(self) -> dict[str, float]:
        """For the log: what is steered and where it stands."""
        if self.controller is None:
            return {}
        return {"loss_factor": self.loss_factor, "target_bits": self.controller.plan.target}

    def state_dict(self) -> dict[str, Any]:
        controller = None if self.controller is None else self.controller.state_dict()
        own = {"sum": torch.as_tensor(self._sum), "count": self._count}
        return {**own, "controller": controller, "detector": self.detector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sum, self._count = state["sum"], state["count"]
        self.detector.load_state_dict(state["detector"])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])


@contextmanager
def mixed_up(decoder: nn.Module) -> Iterator[None]:
    """Every row of a batch is decoded with its neighbour's latent, the third argument."""

    def shuffle(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x_t, log_snr, z_0, *context = inputs
        return (x_t, log_snr, z_0.roll(1, 0), *context)

    handle = decoder.register_forward_pre_hook(shuffle)
    try:
        yield
    finally:
        handle.remove()
