"""Which tiles are fastest on the GPU at hand: what `ul-kernels tune` times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from triton.runtime.errors import OutOfResources, PTXASError

from unified_latents.kernels.attention import rotary_angles
from unified_latents.kernels.fused import attention, modulate, tiles

HALF = torch.bfloat16
DTYPES = (torch.float32, HALF)
WIDTHS = (256, 512, 1024, 2048, 4096)
Timer = Callable[[Callable[[], object]], float]
"""Milliseconds of a call: the same for every candidate."""


@dataclass(frozen=True)
class Trial:
    """A kernel at one size: the choices, and a call that their times show in."""

    kernel: str
    size: int
    dtype: torch.dtype
    run: Callable[[], object]

    @property
    def name(self) -> str:
        return tiles.name(self.kernel, self.size, self.dtype)

    @property
    def space(self) -> tuple[tuple[int, ...], ...]:
        return tiles.SPACES[self.kernel](self.size, self.dtype)


def trials(device: str, grid: tuple[int, ...] = (32, 32), rows: int = 64) -> Iterator[Trial]:
    """Attention of `rows` samples × heads at every head dim, and modulation at some widths."""
    length = torch.Size(grid).numel()
    for dtype in DTYPES:
        for head in attention.HEAD_DIMS:
            q, k, v = torch.randn(3, 1, rows, length, head, device=device, dtype=dtype)
            scale, angles = torch.ones_like(q[0, 0, 0]), rotary_angles(grid, head).to(device)
            inputs = (q, k, v, scale, scale, angles)
            leaves = [each.requires_grad_() for each in (q, k, v)]
            out = attention.attention(*inputs)
            back = partial(
                torch.autograd.grad, out, leaves, torch.ones_like(out), retain_graph=True
            )
            yield Trial("attend", head, dtype, partial(_alone, attention.attention, *inputs))
            yield Trial("queries", head, dtype, back)
            yield Trial("keys", head, dtype, back)
        for width in WIDTHS:
            x = torch.randn(1, rows * length, width, device=device, dtype=dtype)
            vector = x[0, :1]
            both = partial(_both, x.requires_grad_(), vector.detach().requires_grad_())
            yield Trial("modulate", width, dtype, both)


def _alone(run: Callable[..., object], *inputs: torch.Tensor) -> None:
    with torch.no_grad():
        run(*inputs)


def _both(x: torch.Tensor, vector: torch.Tensor) -> None:
    """Both operators of modulation, forward and backward."""
    for out in (modulate.modulate(x, vector, vector), modulate.gated_residual(x, x, vector)):
        torch.autograd.grad(out, (x, vector), out.detach())


def times(trial: Trial, timer: Timer) -> dict[tuple[int, ...], float]:
    """Milliseconds of every choice that this card can launch."""
    found = {}
    for each in trial.space:
        with tiles.using({trial.name: each}):
            try:
                found[each] = timer(trial.run)
            except (OutOfResources, PTXASError):
                continue
    return found


def fastest(found: Mapping[tuple[int, ...], float]) -> tuple[int, ...]:
    """The choice with the least time; the default, which comes first, where it is as good."""
    return min(found, key=lambda each: found[each])
