"""Strict mode, and the ids under which equal bytes are promised.

On a CPU a row's result never depends on its position or its neighbours, but it may depend on how
many there are: matrix products choose their blocking by shape, and so do convolutions. MKL's
`MKL_CBWR=…,STRICT` settles the products for the whole process; here, strict rows pass through
convolutions one at a time. Fast rows do without.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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


class RowByRowConvolutions(TorchFunctionMode):
    """Inside, every convolution sees one row of its batch at a time."""

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
        return func(*args, **kwargs)


def arithmetic(strict: bool, rows: int) -> AbstractContextManager[object]:
    """The context of one forward pass; a single row needs no help."""
    return RowByRowConvolutions() if strict and rows > 1 else nullcontext()


def numerics_id(device: str, kernel_set: str, *, strict: bool) -> str:
    """A digest of what bytes depend on besides the request: 16 hexadecimal digits."""
    facts = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": os.environ.get("MKL_CBWR", ""),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "kernels": kernel_set,
        "mode": "strict" if strict else "fast",
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
