"""How tensors are cut into tiles: a default for every kernel, and a few others that may be faster.

The defaults are compiled ahead of time for three cards (REPORT.md). `ul-kernels tune` times every
choice on the GPU at hand and keeps the fastest (`tuned`); nothing else times anything. What asks
for something outside the spaces below changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from unified_latents.kernels.fused.launch import REGISTERS, padded
from unified_latents.kernels.fused.tuned import tuned


class Tiles(NamedTuple):
    """Of attention: queries and keys of a tile, warps, and stages of the pipeline over the inner
    loop."""

    queries: int
    keys: int
    warps: int
    stages: int


class Cut(NamedTuple):
    """Of modulation: the least elements of a tile, and warps."""

    elements: int
    warps: int


FORWARD_ROWS, BACKWARD_ROWS = 16, 32
"""Positions a program of modulation, at least: it reads its sample's vectors, or writes sums, once
for all."""

Space = tuple[tuple[int, ...], ...]


def attend(head: int, dtype: torch.dtype) -> tuple[Tiles, ...]:
    """The default first; all spaces alike.

    In fp32 no side is 64: Triton 3.7.1 gives "ieee" products of 64 rows to sm_100's tensor cores,
    as TF32.
    """
    if dtype == torch.float32:
        return Tiles(32, 32, 4, 1), Tiles(32, 16, 4, 1), Tiles(16, 32, 4, 1), Tiles(32, 32, 8, 1)
    if head > 64:
        return Tiles(64, 32, 4, 2), Tiles(64, 64, 4, 2), Tiles(128, 32, 8, 2), Tiles(128, 64, 8, 2)
    return Tiles(128, 64, 8, 2), Tiles(128, 64, 4, 2), Tiles(64, 64, 4, 2), Tiles(128, 32, 4, 3)


def queries(head: int, dtype: torch.dtype) -> tuple[Tiles, ...]:
    """Of the backward pass that keeps queries and streams keys."""
    if dtype == torch.float32:
        if head > 64:
            return Tiles(32, 16, 4, 1), Tiles(16, 16, 4, 1), Tiles(16, 32, 4, 1)
        return Tiles(32, 32, 4, 1), Tiles(32, 16, 4, 1), Tiles(32, 32, 8, 1)
    if head > 64:
        return Tiles(64, 32, 4, 1), Tiles(64, 32, 8, 1), Tiles(64, 64, 8, 1), Tiles(128, 32, 8, 1)
    return Tiles(64, 64, 4, 1), Tiles(64, 32, 4, 2), Tiles(128, 64, 8, 1), Tiles(128, 32, 8, 2)


def keys(head: int, dtype: torch.dtype) -> tuple[Tiles, ...]:
    """Of the backward pass that keeps keys and streams queries."""
    if dtype == torch.float32:
        if head > 64:
            return Tiles(32, 16, 4, 1), Tiles(16, 16, 4, 1), Tiles(16, 32, 4, 1)
        return Tiles(32, 32, 4, 1), Tiles(16, 32, 4, 1), Tiles(32, 32, 8, 1)
    if head > 64:
        return Tiles(16, 64, 8, 1), Tiles(32, 64, 8, 1), Tiles(32, 64, 4, 1), Tiles(64, 32, 8, 1)
    return Tiles(32, 64, 4, 1), Tiles(32, 64, 4, 2), Tiles(64, 64, 8, 1), Tiles(32, 128, 8, 1)


def modulate(width: int, dtype: torch.dtype) -> tuple[Cut, ...]:
    """Sixteen elements a lane at the default, and more only past 2048; widths are padded ones."""
    if width > 2048:
        return Cut(2048, 8), Cut(8192, 8), Cut(2048, 4)
    return Cut(2048, 4), Cut(1024, 4), Cut(4096, 8)


SPACES: dict[str, Callable[[int, torch.dtype], Space]] = {
    "attend": attend,
    "queries": queries,
    "keys": keys,
    "modulate": modulate,
}


def name(kernel: str, size: int, dtype: torch.dtype) -> str:
    """How a choice is called in the file."""
    return f"{kernel} {size}, {str(dtype).removeprefix('torch.')}"


class _Choice:
    """What `using` puts before the file."""

    given: Mapping[str, tuple[int, ...]] = {}


_CHOICE = _Choice()


@contextmanager
def using(choices: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Inside, in the whole process, these choices by name instead of the file's."""
    before, _CHOICE.given = _CHOICE.given, choices
    try:
        yield
    finally:
        _CHOICE.given = before


def chosen(kernel: str, size: int, dtype: torch.dtype, device: torch.device) -> Any:
    """The space's entry that a launch takes: the tuned one where there is one, else the default."""
    space, own = SPACES[kernel](size, dtype), name(kernel, size, dtype)
    wanted = _CHOICE.given.get(own) or tuned(device).get(own)
    return next((each for each in space if each == wanted), space[0])


class Shape(NamedTuple):
    """How a width is cut: positions a tile and a program of a backward pass, warps."""

    width: int
    tile: int
    rows: int
    warps: int

    @property
    def forward(self) -> int:
        """Positions a program of a forward pass."""
        return max(FORWARD_ROWS, self.tile)

    @property
    def constants(self) -> dict[str, int]:
        """What every kernel is compiled for."""
        cut = {"TILE": self.tile, "WIDTH": self.width}
        return {**cut, "num_warps": self.warps, "maxnreg": REGISTERS}


def shape(x: torch.Tensor) -> Shape:
    """How modulation cuts x, [n, l, d]: the chosen cut for its width and dtype."""
    wide = padded(x.shape[-1])
    cut: Cut = chosen("modulate", wide, x.dtype, x.device)
    tile = max(1, cut.elements // wide)
    return Shape(wide, tile, max(BACKWARD_ROWS, tile), cut.warps)
