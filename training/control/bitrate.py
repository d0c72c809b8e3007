"""The loss factor that gives a bitrate: a slow proportional-integral controller on ln c_lf.

    e = ln(target / rate)        ln c_lf → ln c₀ + K_p e + K_i Σ e, at most 0.01 a step

A change of c_lf shows in the rate after about τ = 100 steps, with a gain g = ∂ ln rate / ∂ ln c_lf
of 0.5 … 0.95 (measured on Fashion-MNIST, c_lf 2 … 10). K_p = τ / (g T) and K_i = 1 / (g T) cancel
that lag and leave the closed loop a time constant of T steps.

It is frozen for the last third, in which a falling learning rate goes on lowering the rate. So it
aims by the rate of the *averaged* weights, which are where an annealed run ends: those of every
step are smoothed, and corrected by the ratio of the averaged to the raw networks on equal draws,
which hardly varies. In a run of 3 000 steps the average ran ahead by all that was to come; in runs
of 600, whose average is over some forty steps, the rate still fell by some 6 %, lag included. The
aim is that much higher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unified_latents.training.errors import TrainingError

LOWEST, HIGHEST = 1.1, 100.0
"""Bounds of c_lf: at 1 nothing favours the latent."""
_LAG, _GAIN = 100.0, 0.7
_LOSS = 0.06
"""By how much ln rate falls in a last third of 200 steps; by nothing in one of 1 000."""
_FASTEST = 0.01
"""Largest change of ln c_lf a step."""


@dataclass(frozen=True)
class Plan:
    """Which rate, and between which steps c_lf moves towards it."""

    target: float
    """Bits a pixel."""
    begin: int
    """The first step at which the encoder hears the whole bound: before it, a rate says nothing."""
    freeze: int

    def __post_init__(self) -> None:
        if not 0 < self.target < math.inf:
            raise TrainingError(f"the target must be positive bits a pixel, got {self.target}")
        if self.begin >= self.freeze:
            raise TrainingError(
                f"c_lf is frozen after step {self.freeze}, before the encoder's warm-up ends at "
                f"{self.begin}: give more steps, or a shorter --encoder-warmup"
            )

    @property
    def aim(self) -> float:
        """The rate to hold until the freeze, above the target by what a short run still loses."""
        last = self.freeze / 2
        return self.target * math.exp(_LOSS * min(1.0, max(0.0, (1000 - last) / 800)))

    @property
    def settling(self) -> float:
        """T, in steps."""
        return min(400.0, max(60.0, (self.freeze - self.begin) / 4))


class Controller:
    """Moves c_lf while it may; its state goes into every snapshot."""

    def __init__(self, plan: Plan, loss_factor: float) -> None:
        self.plan = plan
        self._log_factor = math.log(min(HIGHEST, max(LOWEST, loss_factor)))
        self._log_rate: float | None = None
        self._log_ratio = 0.0
        self._start, self._integral = self._log_factor, 0.0
        self._step = plan.begin

    @property
    def loss_factor(self) -> float:
        return math.exp(self._log_factor)

    @property
    def rate(self) -> float:
        """What it takes for the averaged networks' bits a pixel; NaN before the first measure."""
        return math.nan if self._log_rate is None else math.exp(self._log_rate + self._log_ratio)

    def observe(self, done: int, raw: float, ratio: float) -> None:
        """The mean bits a pixel of the steps since the last call, and averaged / raw networks'."""
        if done <= self.plan.begin or not (raw > 0 and ratio > 0):
            return
        passed, self._step = done - self._step, done
        self._smooth(math.log(raw), math.log(ratio), passed)
        if done <= self.plan.freeze:
            self._move(math.log(self.plan.aim / self.rate), passed)

    def _smooth(self, raw: float, ratio: float, passed: int) -> None:
        if self._log_rate is None:
            self._log_rate, self._log_ratio = raw, ratio
            return
        new = 1 - math.exp(-passed / (self.plan.settling / 4))
        self._log_rate += new * (raw - self._log_rate)
        self._log_ratio += new * (ratio - self._log_ratio)

    def _move(self, error: float, passed: int) -> None:
        wanted = self._start + (_LAG * error + self._integral + passed * error) / (
            _GAIN * self.plan.settling
        )
        most = _FASTEST * passed
        low = max(math.log(LOWEST), self._log_factor - most)
        high = min(math.log(HIGHEST), self._log_factor + most)
        if low <= wanted <= high:  # else it would wind up
            self._integral += passed * error
        self._log_factor = min(high, max(low, wanted))

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "plan"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
