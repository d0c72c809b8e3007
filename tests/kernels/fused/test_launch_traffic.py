"""Bytes that the kernels move, counted by the interpreter, against the least that would do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from unified_latents.kernels.attention import rotary_angles
from unified_latents.kernels.fused import attention, loss, modulate, noise, tiles
from unified_latents.kernels.noise import Guidance, Keys, Step
from unified_latents.kernels.proof.interpreter import counted

_F32, _BF16 = torch.float32, torch.bfloat16


def moved(run: Callable[[], object]) -> int:
    with counted() as traffic:
        run()
    return traffic.moved


def size(*tensors: Tensor) -> int:
    return sum(each.nbytes for each in tensors)


def leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(shape, dtype=dtype).requires_grad_()


def back(out: Tensor) -> Callable[[], object]:
    """The backward pass alone, its incoming gradient made before."""
    gradient = torch.ones_like(out)
    return partial(torch.autograd.backward, out, gradient)


@pytest.mark.parametrize("dtype", [_F32, _BF16])
def test_modulation_reads_and_writes_once(dtype: torch.dtype) -> None:
    x, y = leaf(2, 128, 256, dtype=dtype), leaf(2, 128, 256, dtype=dtype)
    shift, scale = leaf(2, 256, dtype=dtype), leaf(2, 256, dtype=dtype)
    normed, gated = (
        partial(modulate.modulate, x, shift, scale),
        partial(modulate.gated_residual, x, y, scale),
    )
    assert moved(normed) <= 1.1 * 2 * size(x)
    assert moved(gated) <= 1.1 * 3 * size(x)
    for run in (normed, gated):
        assert moved(back(run())) <= 1.1 * 3 * size(x)


@pytest.mark.parametrize("dtype", [_F32, _BF16])
def test_the_loss_reads_once(dtype: torch.dtype) -> None:
    v, v_hat = leaf(2, 8192, dtype=dtype), leaf(2, 8192, dtype=dtype)
    run = partial(loss.weighted_error, v, v_hat, torch.zeros(2), torch.ones(2))
    assert moved(run) <= 1.1 * size(v, v_hat)
    assert moved(back(run())) <= 1.1 * 2 * size(v, v_hat)


@pytest.mark.parametrize("guided", ["none", "half", "all"])
def test_a_step_reads_only_what_its_rows_need(guided: str) -> None:
    """One v̂ a row without guidance, two with; x̂ of the step before where it is used."""
    x, rows, number = torch.ones(4, 4096), torch.arange(0, 4, 2), torch.arange(4)
    guidance, extra = {
        "none": (None, 0.0),
        "half": (Guidance(x[:2], torch.ones(2), rows), 0.5),
        "all": (Guidance(x, torch.ones(4)), 1.0),
    }[guided]
    for c, reads in ((0.0, 2), (0.5, 3)):
        row = Step(torch.zeros(4), torch.tensor([[0.5, 0.5, c, 0.25]]).expand(4, 4))
        keys = Keys(number, number, number, 0)
        least = (reads + extra + 2) * size(x)
        got = moved(partial(noise.guided_step, x, x, x, row, keys, guidance, clip=False))
        assert least <= got <= 1.1 * least


def test_noise_is_never_stored() -> None:
    x, number = torch.ones(2, 8192), torch.arange(2)
    keys = Keys(number, number, number, 0)
    assert moved(lambda: noise.diffuse(x, torch.zeros(2), keys)) <= 1.1 * 2 * size(x)
    assert moved(lambda: noise.normal(keys, 8192)) <= 1.1 * size(x)


@pytest.mark.parametrize("length", [64, 200])
def test_attention_reads_queries_once_and_keys_once_a_block_of_queries(length: int) -> None:
    """The rest is small: scales, the tables of angles and log Σ exp."""
    q, k, v = torch.ones(3, 1, 1, length, 64, dtype=_BF16).unbind()
    scale, angles = torch.ones(64, dtype=_BF16), rotary_angles((length,), 64)
    cut = tiles.attend(64, _BF16)[0]
    blocks = -(-length // cut.queries)
    tables = (1 + blocks) * 2 * angles.nbytes
    keys = -(-length // cut.keys)
    scales = blocks * (1 + keys) * size(scale)
    want = size(q) * 2 + blocks * size(k, v) + tables + scales + 4 * length
    got = moved(lambda: attention.attention(q, k, v, scale, scale, angles))
    assert got == want
