"""GELU by its tanh approximation (Hendrycks & Gimpel, 2016): the reference.

gelu(x) = x (1 + tanh u) / 2 = x σ(2u),   u = √(2/π) (x + 0.044715 x³)

By σ, whose exponential costs a CPU half of what a tanh does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def gelu(x: Tensor) -> Tensor:
    """Elementwise, in x's dtype; halves go through torch's own, which rounds them once."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return F.gelu(x, approximate="tanh")
    slope = torch.addcmul(x.new_full((), _LINEAR), x, x, value=_CUBIC)
    return x * torch.sigmoid(x * slope)
