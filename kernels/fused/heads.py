"""What the attention kernels do to a tile of one head: load, RMS-norm, rotate, and back.

A tile is kept as two halves [rows, HALF], the first and second elements of the rotary pairs, so
a rotation moves nothing between lanes. HALF is HEAD / 2 padded to a power of two; the padding
is zero and adds nothing to any product.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def halves(base, row, inside, stride, HEAD: tl.constexpr, HALF: tl.constexpr):
    """Both halves of rows `row` of one head, as they are in memory."""
    column = tl.arange(0, HALF)
    wanted = inside[:, None] & (column < HEAD // 2)[None, :]
    at = base + row[:, None] * stride + column[None, :]
    return tl.load(at, wanted, 0.0), tl.load(at + HEAD // 2, wanted, 0.0)


@triton.jit
def store_halves(base, row, inside, stride, first, second, HEAD: tl.constexpr, HALF: tl.constexpr):
    """The inverse of `halves`, in the tensor's dtype."""
    column = tl.arange(0, HALF)
    wanted = inside[:, None] & (column < HEAD // 2)[None, :]
    at = base + row[:, None] * stride + column[None, :]
    tl.store(at, first.to(base.dtype.element_ty), wanted)
    tl.store(at + HEAD // 2, second.to(base.dtype.element_ty), wanted)


@triton.jit
def vector(base, HEAD: tl.constexpr, HALF: tl.constexpr):
    """Both halves of a head's scale, fp32 [1, HALF]."""
    column = tl.arange(0, HALF)
    inside = column < HEAD // 2
    first = tl.load(base + column, inside, 0.0).to(tl.float32)
    second = tl.load(base + HEAD // 2 + column, inside, 0.0).to(tl.float32)
    return first[None, :], second[None, :]


@triton.jit
def store_vector(base, first, second, HEAD: tl.constexpr, HALF: tl.constexpr):
    """Sums over a tile's rows, fp32 [HEAD]."""
    column = tl.arange(0, HALF)
    inside = column < HEAD // 2
    tl.store(base + column, tl.sum(first, 0), inside)
    tl.store(base + HEAD // 2 + column, tl.sum(second, 0), inside)


@triton.jit
def turns(cosine, sine, row, inside, HEAD: tl.constexpr, HALF: tl.constexpr):
    """cos and sin of the rows' angles; the tables are fp32 [length, HEAD / 2]."""
    column = tl.arange(0, HALF)
    wanted = inside[:, None] & (column < HEAD // 2)[None, :]
    at = row[:, None] * (HEAD // 2) + column[None, :]
    return tl.load(cosine + at, wanted, 1.0), tl.load(sine + at, wanted, 0.0)


@triton.jit
def inverse_norm(first, second, EPSILON: tl.constexpr, HEAD: tl.constexpr):
    """1/√(mean square + ε) of each row, [rows, 1]."""
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    return (1.0 / tl.sqrt_rn(squares / HEAD + EPSILON))[:, None]


@triton.jit
def prepared(
    base, scale, cosine, sine, row, inside, stride, factor,
    ROTATE: tl.constexpr, EPSILON: tl.constexpr, HEAD: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """factor · R(p) RMS(x) g of a tile, rounded once to the tensor's dtype."""
    x1, x2 = halves(base, row, inside, stride, HEAD, HALF)
    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    g1, g2 = vector(scale, HEAD, HALF)
    inverse = inverse_norm(x1, x2, EPSILON, HEAD) * factor
    x1, x2 = x1 * inverse * g1, x2 * inverse * g2
    if ROTATE:
        cos, sin = turns(cosine, sine, row, inside, HEAD, HALF)
        x1, x2 = x1 * cos - x2 * sin, x1 * sin + x2 * cos
    return x1.to(base.dtype.element_ty), x2.to(base.dtype.element_ty)


@triton.jit
def allowed(mask, row, inside, MASKED: tl.constexpr):
    """Which keys of a tile may be attended to."""
    result = inside
    if MASKED:
        result = inside & (tl.load(mask + row, inside, 0) != 0)
    return result


@triton.jit
def product(a1, a2, b1, b2):
    """a bᵀ over both halves, accumulated in fp32."""
    result = tl.dot(a1, tl.trans(b1), input_precision="ieee")
    return tl.dot(a2, tl.trans(b2), result, input_precision="ieee")
