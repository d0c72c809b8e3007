"""What every fused operator asks of its tensors before it launches."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from unified_latents.kernels.errors import UnsupportedError, require

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MAX_ROWS = 65_535
"""CUDA's limit of a grid's second axis."""


def devices(kernel: object) -> tuple[str, ...]:
    """What the kernel runs on: CUDA, and the CPU in the interpreter."""
    return ("cpu", "cuda") if isinstance(kernel, InterpretedFunction) else ("cuda",)


def check(kernel: object, *tensors: Tensor) -> None:
    """Dtypes, one device, and one that the kernel runs on."""
    for tensor in tensors:
        require("dtype", tensor.dtype, DTYPES)
        require("device", tensor.device.type, devices(kernel))
        require("device", tensor.device, (tensors[0].device,))
    if not 0 < tensors[0].shape[0] <= _MAX_ROWS or 0 in tensors[0].shape:
        raise UnsupportedError("shape", tuple(tensors[0].shape), (f"1 to {_MAX_ROWS} rows",))


def same_shape(first: Tensor, *others: Tensor) -> None:
    """Every tensor has the shape of the first."""
    for other in others:
        require("shape", tuple(other.shape), (tuple(first.shape),))


def chunks(length: int, block: int) -> int:
    """How many blocks cover a length."""
    return int(triton.cdiv(length, block))


def padded(length: int) -> int:
    """The next power of two, at least 16."""
    return max(16, int(triton.next_power_of_2(length)))
