"""What every fused operator asks of its tensors before it launches."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from unified_latents.kernels.errors import UnsupportedError, require

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_ROWS = 65_535
"""CUDA's limit of a grid's second axis."""
REGISTERS = 255
"""A thread's at most, said to ptxas: left to itself it aims at fewer, for more programs at once,
and spills a few bytes to get there."""
_MAX_ELEMENTS = 2**31 - 1
"""Of one row: positions in it are 32-bit numbers."""


def devices(kernel: object) -> tuple[str, ...]:
    """What the kernel runs on: CUDA, and the CPU in the interpreter."""
    return ("cpu", "cuda") if isinstance(kernel, InterpretedFunction) else ("cuda",)


def check(kernel: object, *tensors: Tensor) -> None:
    """Dtypes, one device, and one that the kernel runs on."""
    for tensor in tensors:
        require("dtype", tensor.dtype, DTYPES)
        require("device", tensor.device.type, devices(kernel))
        require("device", tensor.device, (tensors[0].device,))
    shape = tuple(tensors[0].shape)
    if not shape or 0 in shape or shape[0] > MAX_ROWS or math.prod(shape[1:]) > _MAX_ELEMENTS:
        raise UnsupportedError(
            "shape", shape, (f"1 to {MAX_ROWS} rows of 1 to {_MAX_ELEMENTS} elements",)
        )


def per_row(x: Tensor, **vectors: Tensor) -> None:
    """One number a row of x, on its device."""
    for name, vector in vectors.items():
        require(f"shape of {name}", tuple(vector.shape), ((len(x),),))
        require(f"device of {name}", vector.device, (x.device,))


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
