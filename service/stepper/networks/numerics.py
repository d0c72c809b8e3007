"""Strict mode, and the ids under which equal bytes are promised.

On a CPU a row's result never depends on its position or its neighbours, but it may depend on how
many there are: matrix products choose their blocking by shape, and so do convolutions. MKL's
`MKL_CBWR=…,STRICT` settles the products for the whole process on Intel's processors only. So
strict rows pass through convolutions one at a time, and through the products of conditioning
vectors, whose few rows are where blockings differ, in blocks of one size. An exponential has other
last bits where a thread's part of a tensor ends than in its middle, so none ends within a row.

On CUDA all of a network's shapes are settled at once: strict rows pass in blocks of one size.
Fast rows do without either.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unified_latents import kernels, models
from unified_latents.service import stepper

_CONVOLUTIONS = frozenset(
    {
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.conv_transpose3d,
    }
)


_BLOCK = 8
_EXPONENTIALS = frozenset({torch.sigmoid, F.silu})
_GRAIN, _VECTORS = 2**15, 64
"""Elements that torch never divides among threads, and a multiple of what it computes at once."""
CUDA_BLOCK = 8
"""Rows of every strict evaluation on CUDA."""


class FixedShapes(TorchFunctionMode):
    """Inside, no convolution and no product of vectors [n, d] has a shape that depends on n, and
    no exponential is divided within a row."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and len(args[0]) > 1:
            rows: tuple[Tensor, ...] = args[0].split(1)
            return torch.cat([func(row, *args[1:], **kwargs) for row in rows])
        if func in _EXPONENTIALS and len(args[0]) > 1:
            size = args[0][0].numel()
            together = max(1, _GRAIN // size) if size % _VECTORS == 0 else 1
            return torch.cat([func(rows, **kwargs) for rows in args[0].split(together)])
        if func is F.linear and args[0].ndim == 2:
            n = len(args[0])
            padded = F.pad(args[0], (0, 0, 0, -n % _BLOCK))
            blocks = [func(block, *args[1:], **kwargs) for block in padded.split(_BLOCK)]
            return torch.cat(blocks)[:n]
        return func(*args, **kwargs)


def in_blocks(
    run: Callable[[tuple[Tensor, ...]], Tensor], inputs: tuple[Tensor, ...], size: int
) -> Tensor:
    """What `run` makes of rows, `size` at a time: where some lack, the last is repeated."""
    n = len(inputs[0])
    spare = torch.arange(n + -n % size, device=inputs[0].device).clamp(max=n - 1)
    padded = inputs if n % size == 0 else tuple(each[spare] for each in inputs)
    parts = zip(*(each.split(size) for each in padded), strict=True)
    return torch.cat([run(part) for part in parts])[:n]


def arithmetic(strict: bool) -> AbstractContextManager[object]:
    """The context of one forward pass."""
    return FixedShapes() if strict else nullcontext()


def code(*packages: ModuleType) -> str:
    """A digest of all modules of packages."""
    digest = hashlib.sha256()
    for folder in (Path(package.__path__[0]) for package in packages):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def numerics_id(
    device: str,
    kernel_set: str,
    compiled: str | None = None,
    *,
    strict: bool,
    graphs: bool = False,
) -> str:
    """A digest of what bytes depend on besides the request: 16 hexadecimal digits.

    `compiled`: the digest of the networks that run as libraries; None: there are none. `graphs`:
    whether passes are recorded, with rows rounded up.
    """
    facts = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": os.environ.get("MKL_CBWR", ""),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "kernels": kernel_set,
        "code": code(kernels, models, stepper),
        "mode": "strict" if strict else "fast",
    }
    if compiled is not None:
        facts["compiled"] = compiled
    if graphs:
        facts["graphs"] = "buckets"
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
