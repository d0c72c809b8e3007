"""Every choice of every space launches and gives what the reference gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from unified_latents.kernels import attention as plain_attention
from unified_latents.kernels import modulate as plain_modulate
from unified_latents.kernels.attention import rotary_angles
from unified_latents.kernels.fused import attention, modulate, tiles
from unified_latents.kernels.fused.launch import DTYPES, REGISTERS

Compare = Callable[..., dict[str, float]]
_F32, _BF16 = torch.float32, torch.bfloat16
_SIZES = {"attend": (32, 64, 96, 128), "queries": (32, 64, 96, 128), "keys": (32, 64, 96, 128)}
_SIZES["modulate"] = (32, 2048, 4096, 8192)
_ALL = [
    (kernel, size, dtype) for kernel, sizes in _SIZES.items() for size in sizes for dtype in DTYPES
]


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def distinct() -> Iterator[tuple[str, int, torch.dtype, tuple[int, ...]]]:
    """The interpreter knows neither warps nor stages: choices that differ in more, by dtype."""
    seen = set()
    for kernel, size, dtype in _ALL:
        for each in tiles.SPACES[kernel](size, dtype):
            key = (kernel, dtype.itemsize, size > 64, each[: len(each) // 2])
            if dtype != torch.float16 and key not in seen:
                seen.add(key)
                yield kernel, size, dtype, each


def test_spaces_name_the_four_kernels_that_can_be_cut() -> None:
    assert set(tiles.SPACES) == set(_SIZES)


@pytest.mark.parametrize(("kernel", "size", "dtype"), _ALL)
def test_spaces_are_small_and_launchable(kernel: str, size: int, dtype: torch.dtype) -> None:
    space = tiles.SPACES[kernel](size, dtype)
    assert 3 <= len(set(space)) == len(space) <= 5
    for each in space:
        warps = each[2] if kernel != "modulate" else each[1]
        assert 32 * warps * REGISTERS <= 65_536
        if kernel != "modulate" and dtype == _F32:
            assert max(each[:2]) < 64


def test_a_given_choice_is_taken_and_one_outside_the_space_is_not() -> None:
    cpu, default = torch.device("cpu"), tiles.attend(64, _BF16)[0]
    other = tiles.attend(64, _BF16)[1]
    with tiles.using({"attend 64, bfloat16": other}):
        assert tiles.chosen("attend", 64, _BF16, cpu) == other
        assert tiles.chosen("attend", 64, _F32, cpu) == tiles.attend(64, _F32)[0]
    with tiles.using({"attend 64, bfloat16": (8, 8, 1, 1)}):
        assert tiles.chosen("attend", 64, _BF16, cpu) == default
    assert tiles.chosen("attend", 64, _BF16, cpu) == default


@pytest.mark.parametrize(("kernel", "size", "dtype", "choice"), list(distinct()))
def test_every_choice_equals_fp64(
    compare: Compare, kernel: str, size: int, dtype: torch.dtype, choice: tuple[int, ...]
) -> None:
    with tiles.using({tiles.name(kernel, size, dtype): choice}):
        if kernel == "modulate":
            parts = (draw(2, 5, size, dtype=dtype), *draw(2, 2, size, dtype=dtype, seed=1))
            assert compare(modulate.modulate, plain_modulate.modulate, parts, dtype) == {}
            return
        angles = rotary_angles((70,), size)
        leaves = [*draw(3, 1, 1, 70, size, dtype=dtype), *draw(2, size, dtype=dtype, seed=1)]

        def fast(*parts: Tensor) -> Tensor:
            q, k, v, a, b = parts
            return attention.attention(q, k, v, a, b, angles)

        def slow(*parts: Tensor) -> Tensor:
            q, k, v, a, b = parts
            return plain_attention.attention(q, k, v, a, b, angles.double())

        assert compare(fast, slow, leaves, dtype) == {}
