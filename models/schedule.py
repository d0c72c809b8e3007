"""Log-SNR schedules λ(t): t = 0 is the cleanest level λ_max, t = 1 the noisiest λ_min.

λ = log(α²/σ²) with α² + σ² = 1 (arXiv 2602.17270). A schedule also gives its rate −dλ/dt,
which every loss carries, so that a loss does not depend on how its levels were drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LinearSchedule:
    """λ(t) = λ_max + t (λ_min − λ_max): the latent networks' schedule."""

    lambda_min: float
    lambda_max: float

    def __post_init__(self) -> None:
        _check_range(self.lambda_min, self.lambda_max)

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return self.lambda_max + t * (self.lambda_min - self.lambda_max)

    def rate(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """−dλ/dt."""
        return torch.full_like(t, self.lambda_max - self.lambda_min)


@dataclass(frozen=True)
class CosineSchedule:
    """λ(t) = −2 log tan(u) + shift, u linear in t: the decoder's schedule.

    u runs between the angles that give exactly λ_max and λ_min; `shift` moves the middle of the
    schedule, as a change of resolution does (Hoogeboom et al., "Simple diffusion", 2023).
    """

    lambda_min: float
    lambda_max: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        _check_range(self.lambda_min, self.lambda_max)

    def _angle(self, t: Tensor) -> Tensor:
        low = math.atan(math.exp((self.shift - self.lambda_max) / 2))
        return low + t * self._span

    @property
    def _span(self) -> float:
        return math.atan(math.exp((self.shift - self.lambda_min) / 2)) - math.atan(
            math.exp((self.shift - self.lambda_max) / 2)
        )

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -2 * torch.log(torch.tan(self._angle(t))) + self.shift

    def rate(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """−dλ/dt."""
        return 4 * self._span / torch.sin(2 * self._angle(t))


Schedule = LinearSchedule | CosineSchedule


def _check_range(lambda_min: float, lambda_max: float) -> None:
    if not lambda_min < lambda_max:
        raise ValueError(f"lambda_min must be below lambda_max, got {lambda_min} and {lambda_max}")
