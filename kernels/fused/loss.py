"""The weighted ε-MSE from v and v̂: one read of each, ε̂ never made, fp32 sums in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unified_latents.kernels.fused.launch import check, chunks, per_row, same_shape
from unified_latents.kernels.loss import weights

BLOCK = 1024


@triton.jit
def loss_kernel(partial, v, v_hat, size, BLOCK: tl.constexpr):
    """Σ (v − v̂)² of one block of a row."""
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    element = chunk * BLOCK + tl.arange(0, BLOCK)
    inside, at = element < size, row * size + element
    a = tl.load(v + at, inside, 0.0).to(tl.float32)
    b = tl.load(v_hat + at, inside, 0.0).to(tl.float32)
    tl.store(partial + row * tl.num_programs(0) + chunk, tl.sum((a - b) * (a - b), 0))


@triton.jit
def loss_backward_kernel(dv, dv_hat, v, v_hat, factor, size, BLOCK: tl.constexpr):
    """dv = 2 w g (v − v̂) = −dv̂; factor is 2 w g, [n]."""
    row = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, at = element < size, row * size + element
    a = tl.load(v + at, inside, 0.0).to(tl.float32)
    b = tl.load(v_hat + at, inside, 0.0).to(tl.float32)
    grad = tl.load(factor + row) * (a - b)
    tl.store(dv + at, grad.to(dv.dtype.element_ty), inside)
    tl.store(dv_hat + at, (-grad).to(dv_hat.dtype.element_ty), inside)


@torch.library.custom_op("unified_latents::weighted_error", mutates_args=())
def _weighted_error(v: Tensor, v_hat: Tensor, weight: Tensor) -> Tensor:
    check(loss_kernel, v, v_hat)
    same_shape(v, v_hat)
    v, v_hat, size = v.contiguous(), v_hat.contiguous(), v[0].numel()
    blocks = chunks(size, BLOCK)
    partial = v.new_empty((len(v), blocks), dtype=torch.float32)
    loss_kernel[(blocks, len(v))](partial, v, v_hat, size, BLOCK=BLOCK)
    return weight * partial.sum(1)


@_weighted_error.register_fake
def _(v: Tensor, v_hat: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(weight)


@torch.library.custom_op("unified_latents::weighted_error_backward", mutates_args=())
def _backward(v: Tensor, v_hat: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    check(loss_backward_kernel, v, v_hat)
    v, v_hat, size = v.contiguous(), v_hat.contiguous(), v[0].numel()
    dv, dv_hat = torch.empty_like(v), torch.empty_like(v_hat)
    grid = chunks(size, BLOCK), len(v)
    loss_backward_kernel[grid](dv, dv_hat, v, v_hat, factor, size, BLOCK=BLOCK)
    return dv, dv_hat


@_backward.register_fake
def _(v: Tensor, v_hat: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), v_hat.new_empty(v_hat.shape)


def _saved(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _grad(ctx, grad):
    v, v_hat, weight = ctx.saved_tensors
    dv, dv_hat = _backward(v, v_hat, (2 * weight * grad).contiguous())
    return dv, dv_hat, None


_weighted_error.register_autograd(_grad, setup_context=_saved)


def weighted_error(
    v: Tensor, v_hat: Tensor, log_snr: Tensor, rate: Tensor, bias: float | None = None
) -> Tensor:
    """`kernels.loss.weighted_error` in fp32, [n]; differentiable in v and v̂, not in λ."""
    per_row(v, log_snr=log_snr, rate=rate)
    return _weighted_error(v, v_hat, weights(log_snr.float(), rate.float(), bias))
