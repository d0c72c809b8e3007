"""8-bit pixels and the range [−1, 1] that the networks see."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit(pixels: UInt8[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """0…255 → [−1, 1]."""
    return pixels.float() / 127.5 - 1


def from_unit(x: Float[Tensor, "*d"]) -> UInt8[Tensor, "*d"]:
    """[−1, 1] → 0…255, clamped and rounded to nearest."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
