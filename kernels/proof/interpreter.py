"""Triton's interpreter, corrected and counted. Wants TRITON_INTERPRET=1 before Triton is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def _widened(handle):
    """bf16 is kept as 16-bit integers there; their value as fp32."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    data = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return TensorHandle(data, tl.float32)


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, tl.dot of bf16 multiplies values: Triton 3.9's interpreter multiplies their bits."""
    dot = InterpreterBuilder.create_dot

    def create_dot(self, a, b, d, *rest):
        return dot(self, _widened(a), _widened(b), d, *rest)

    InterpreterBuilder.create_dot = create_dot
    try:
        yield
    finally:
        InterpreterBuilder.create_dot = dot


@dataclass
class Traffic:
    """Bytes that kernels asked memory for, masked lanes left out, and launches."""

    loaded: int = 0
    stored: int = 0
    launches: int = 0

    @property
    def moved(self) -> int:
        return self.loaded + self.stored


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts every load and store of the kernels that run inside."""
    traffic = Traffic()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    run = interpreter.GridExecutor.__call__

    def create_masked_load(self, ptrs, mask, *rest):
        result = load(self, ptrs, mask, *rest)
        traffic.loaded += int(mask.data.sum()) * result.data.dtype.itemsize
        return result

    def create_masked_store(self, ptrs, value, mask, *rest):
        traffic.stored += int(mask.data.sum()) * value.data.dtype.itemsize
        return store(self, ptrs, value, mask, *rest)

    def launch(self, *args, **kwargs):
        traffic.launches += 1
        return run(self, *args, **kwargs)

    InterpreterBuilder.create_masked_load = create_masked_load
    InterpreterBuilder.create_masked_store = create_masked_store
    interpreter.GridExecutor.__call__ = launch
    try:
        yield traffic
    finally:
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store
        interpreter.GridExecutor.__call__ = run
