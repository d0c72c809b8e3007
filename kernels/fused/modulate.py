"""Layer norm with shift and scale, and the gated residual; sums over positions in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unified_latents.kernels.errors import UnsupportedError, require
from unified_latents.kernels.fused.launch import check, chunks, same_shape
from unified_latents.kernels.fused.tiles import shape

EPSILON = 1e-6
MAX_WIDTH = 8192


@triton.jit
def _tile(start, end, width, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets of positions start … start + TILE and of every channel, and which are inside."""
    position, column = start + tl.arange(0, TILE), tl.arange(0, WIDTH)
    inside = (position[:, None] < end) & (column[None, :] < width)
    return position[:, None] * width + column[None, :], inside


@triton.jit
def _channels(vector, sample, stride, width, WIDTH: tl.constexpr):
    """A sample's vector as [1, WIDTH], zero outside."""
    column = tl.arange(0, WIDTH)
    value = tl.load(vector + sample * stride + column, column < width, 0.0)
    return value.to(tl.float32)[None, :]


@triton.jit
def _partial(out, total, width, WIDTH: tl.constexpr):
    """The program's sum over its positions, at [sample, chunk]."""
    column = tl.arange(0, WIDTH)
    at = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * width
    tl.store(out + at + column, tl.sum(total, 0), column < width)


@triton.jit
def modulate_kernel(
    out, mean, rstd, x, shift, scale, length, width, shift_stride, scale_stride,
    EPSILON: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """ROWS positions a program; mean and 1/std are kept for the backward pass."""
    first, sample = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    x, out = x + sample * length * width, out + sample * length * width
    s = 1.0 + _channels(scale, sample, scale_stride, width, WIDTH)
    b = _channels(shift, sample, shift_stride, width, WIDTH)
    end = tl.minimum(first + ROWS, length)
    for start in range(first, end, TILE):
        at, inside = _tile(start, end, width, TILE, WIDTH)
        value = tl.load(x + at, inside, 0.0).to(tl.float32)
        centre = tl.sum(value, 1) / width
        centred = tl.where(inside, value - centre[:, None], 0.0)
        inverse = 1.0 / tl.sqrt_rn(tl.sum(centred * centred, 1) / width + EPSILON)
        result = centred * inverse[:, None] * s + b
        tl.store(out + at, result.to(out.dtype.element_ty), inside)
        position = start + tl.arange(0, TILE)
        tl.store(mean + sample * length + position, centre, position < end)
        tl.store(rstd + sample * length + position, inverse, position < end)


@triton.jit
def modulate_backward_kernel(
    dx, d_shift, d_scale, grad, x, scale, mean, rstd, length, width, scale_stride,
    ROWS: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dx of ROWS positions, and their partial sums of the gradients of shift and scale."""
    first, sample = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    base = sample * length * width
    s = 1.0 + _channels(scale, sample, scale_stride, width, WIDTH)
    sum_shift = tl.zeros([TILE, WIDTH], tl.float32)
    sum_scale = tl.zeros([TILE, WIDTH], tl.float32)
    end = tl.minimum(first + ROWS, length)
    for start in range(first, end, TILE):
        at, inside = _tile(start, end, width, TILE, WIDTH)
        position = start + tl.arange(0, TILE)
        g = tl.load(grad + base + at, inside, 0.0).to(tl.float32)
        value = tl.load(x + base + at, inside, 0.0).to(tl.float32)
        inverse = tl.load(rstd + sample * length + position, position < length, 0.0)[:, None]
        centre = tl.load(mean + sample * length + position, position < length, 0.0)[:, None]
        normed = tl.where(inside, (value - centre) * inverse, 0.0)
        sum_shift += g
        sum_scale += g * normed
        inner = g * s
        average, along = tl.sum(inner, 1) / width, tl.sum(inner * normed, 1) / width
        result = inverse * (inner - average[:, None] - normed * along[:, None])
        tl.store(dx + base + at, result.to(dx.dtype.element_ty), inside)
    _partial(d_shift, sum_shift, width, WIDTH)
    _partial(d_scale, sum_scale, width, WIDTH)


@triton.jit
def gated_kernel(
    out, x, y, gate, length, width, gate_stride,
    ROWS: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """x + gate · y, ROWS positions a program."""
    first, sample = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    base = sample * length * width
    g = _channels(gate, sample, gate_stride, width, WIDTH)
    end = tl.minimum(first + ROWS, length)
    for start in range(first, end, TILE):
        at, inside = _tile(start, end, width, TILE, WIDTH)
        a = tl.load(x + base + at, inside, 0.0).to(tl.float32)
        b = tl.load(y + base + at, inside, 0.0).to(tl.float32)
        tl.store(out + base + at, (a + g * b).to(out.dtype.element_ty), inside)


@triton.jit
def gated_backward_kernel(
    dy, d_gate, grad, y, gate, length, width, gate_stride,
    ROWS: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dy of ROWS positions, and their partial sum of the gate's gradient."""
    first, sample = tl.program_id(0) * ROWS, tl.program_id(1).to(tl.int64)
    base = sample * length * width
    weight = _channels(gate, sample, gate_stride, width, WIDTH)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    end = tl.minimum(first + ROWS, length)
    for start in range(first, end, TILE):
        at, inside = _tile(start, end, width, TILE, WIDTH)
        g = tl.load(grad + base + at, inside, 0.0).to(tl.float32)
        total += g * tl.load(y + base + at, inside, 0.0).to(tl.float32)
        tl.store(dy + base + at, (weight * g).to(dy.dtype.element_ty), inside)
    _partial(d_gate, total, width, WIDTH)


def _rows(x: Tensor, *vectors: Tensor) -> list[Tensor]:
    """[n, d] vectors with consecutive channels; chunks of one wide projection need no copy."""
    if x.ndim != 3 or x.shape[-1] > MAX_WIDTH:
        raise UnsupportedError("shape", tuple(x.shape), (f"[n, l, d] with d ≤ {MAX_WIDTH}",))
    for vector in vectors:
        require("shape", tuple(vector.shape), ((x.shape[0], x.shape[2]),))
    return [each if each.stride(-1) == 1 else each.contiguous() for each in vectors]


def _promoted(*tensors: Tensor) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


@torch.library.custom_op("unified_latents::modulate", mutates_args=())
def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check(modulate_kernel, x, shift, scale)
    shift, scale = _rows(x, shift, scale)
    x, (n, length, width) = x.contiguous(), x.shape
    out = torch.empty_like(x, dtype=_promoted(x, shift, scale))
    mean, rstd = (x.new_empty((n, length), dtype=torch.float32) for _ in range(2))
    cut = shape(x)
    modulate_kernel[(chunks(length, cut.forward), n)](
        out, mean, rstd, x, shift, scale, length, width, shift.stride(0), scale.stride(0),
        EPSILON=EPSILON, ROWS=cut.forward, **cut.constants,
    )  # fmt: skip
    return out, mean, rstd


@_modulate.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = x.new_empty(x.shape, dtype=_promoted(x, shift, scale))
    mean = x.new_empty(x.shape[:2], dtype=torch.float32)
    return out, mean, torch.empty_like(mean)


@torch.library.custom_op("unified_latents::modulate_backward", mutates_args=())
def _modulate_backward(
    grad: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, x, (n, length, width) = grad.contiguous(), x.contiguous(), x.shape
    check(modulate_backward_kernel, grad, x)
    (scale,) = _rows(x, scale)
    cut, dx = shape(x), torch.empty_like(x)
    blocks = chunks(length, cut.rows)
    sums = x.new_empty((2, n, blocks, width), dtype=torch.float32)
    modulate_backward_kernel[(blocks, n)](
        dx, sums[0], sums[1], grad, x, scale, mean, rstd, length, width, scale.stride(0),
        ROWS=cut.rows, **cut.constants,
    )  # fmt: skip
    d_shift, d_scale = sums.sum(2)
    return dx, d_shift.clone(), d_scale.clone()


@_modulate_backward.register_fake
def _(
    grad: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    vector = scale.new_empty(scale.shape, dtype=torch.float32)
    return x.new_empty(x.shape), vector, torch.empty_like(vector)


def _modulate_saved(ctx, inputs, output):
    x, shift, scale = inputs
    ctx.save_for_backward(x, scale, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.shift_dtype = shift.dtype


def _modulate_grad(ctx, grad, *_):
    x, scale, mean, rstd = ctx.saved_tensors
    dx, d_shift, d_scale = _modulate_backward(grad, x, scale, mean, rstd)
    return dx, d_shift.to(ctx.shift_dtype), d_scale.to(scale.dtype)


_modulate.register_autograd(_modulate_grad, setup_context=_modulate_saved)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`kernels.modulate.modulate`; dtypes are promoted as in the reference."""
    return _modulate(x, shift, scale)[0]


@torch.library.custom_op("unified_latents::gated_residual", mutates_args=())
def _gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    check(gated_kernel, x, y, gate)
    same_shape(x, y)
    (gate,) = _rows(x, gate)
    x, y, (n, length, width) = x.contiguous(), y.contiguous(), x.shape
    out = torch.empty_like(x, dtype=_promoted(x, y, gate))
    cut = shape(x)
    gated_kernel[(chunks(length, cut.forward), n)](
        out, x, y, gate, length, width, gate.stride(0),
        ROWS=cut.forward, **cut.constants,
    )  # fmt: skip
    return out


@_gated.register_fake
def _(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=_promoted(x, y, gate))


@torch.library.custom_op("unified_latents::gated_residual_backward", mutates_args=())
def _gated_backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    grad, y, (n, length, width) = grad.contiguous(), y.contiguous(), y.shape
    check(gated_backward_kernel, grad, y)
    (gate,) = _rows(y, gate)
    cut, dy = shape(y), torch.empty_like(y)
    blocks = chunks(length, cut.rows)
    sums = y.new_empty((n, blocks, width), dtype=torch.float32)
    gated_backward_kernel[(blocks, n)](
        dy, sums, grad, y, gate, length, width, gate.stride(0),
        ROWS=cut.rows, **cut.constants,
    )  # fmt: skip
    return dy, sums.sum(1)


@_gated_backward.register_fake
def _(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), gate.new_empty(gate.shape, dtype=torch.float32)


def _gated_saved(ctx, inputs, output):
    x, y, gate = inputs
    ctx.save_for_backward(y, gate)
    ctx.x_dtype = x.dtype


def _gated_grad(ctx, grad):
    y, gate = ctx.saved_tensors
    dy, d_gate = _gated_backward(grad, y, gate)
    return grad.to(ctx.x_dtype), dy, d_gate.to(gate.dtype)


_gated.register_autograd(_gated_grad, setup_context=_gated_saved)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """`kernels.modulate.gated_residual`; dtypes are promoted as in the reference."""
    return _gated(x, y, gate)
