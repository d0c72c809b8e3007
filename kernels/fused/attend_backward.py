"""The backward attention kernels: over blocks of queries, over blocks of keys, and back through
rotation and norm.

None uses atomics: each gradient is summed by one program, in a fixed order. The first also leaves
δ = Σ o · do of every row, which the second reads. Both leave fp32 gradients of the normed and
rotated q and k for the third: at the end of their own programs its tiles, beside two accumulators,
would spill registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from unified_latents.kernels.fused.heads import (
    allowed,
    halves,
    inverse_norm,
    prepared,
    product,
    store_halves,
    store_vector,
    turns,
    vector,
)


@triton.jit
def _over_keys(
    d1, d2, q1, q2, g1, g2, lse, delta, k, v, mask, k_scale, cosine, sine, length, stride,
    ROTATE: tl.constexpr, MASKED: tl.constexpr, EPSILON: tl.constexpr,
    HEAD: tl.constexpr, HALF: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Σ over one set of keys of p (dp − δ) k."""
    for start in range(0, length, KEYS):
        row = start + tl.arange(0, KEYS)
        inside = row < length
        k1, k2 = prepared(
            k, k_scale, cosine, sine, row, inside, stride, 1.0, ROTATE, EPSILON, HEAD, HALF
        )
        weight = tl.exp2(product(q1, q2, k1, k2) - lse[:, None])
        weight = tl.where(allowed(mask, row, inside, MASKED)[None, :], weight, 0.0)
        v1, v2 = halves(v, row, inside, stride, HEAD, HALF)
        d_score = (weight * (product(g1, g2, v1, v2) - delta[:, None])).to(k1.dtype)
        d1 = tl.dot(d_score, k1, d1, input_precision="ieee")
        d2 = tl.dot(d_score, k2, d2, input_precision="ieee")
    return d1, d2


@triton.jit
def queries_kernel(
    dq, delta_out, grad, out, lse, q, k, v, q_scale, k_scale, cosine, sine,
    context_k, context_v, mask,
    heads, length, context, stride_n, stride_h, stride_l, context_n, context_h, context_l, factor,
    HAS_CONTEXT: tl.constexpr, MASKED: tl.constexpr, EPSILON: tl.constexpr,
    HEAD: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The gradient of R(p) RMS(q) g, fp32 [n, l, h, d], and δ [n, h, l]."""
    pair = tl.program_id(1).to(tl.int64)
    n, h = pair // heads, pair % heads
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = row < length
    base, extra = n * stride_n + h * stride_h, n * context_n + h * context_h
    own, own_stride = (n * length * heads + h) * HEAD, heads * HEAD
    g1, g2 = halves(grad + own, row, inside, own_stride, HEAD, HALF)
    o1, o2 = halves(out + own, row, inside, own_stride, HEAD, HALF)
    delta = tl.sum(g1.to(tl.float32) * o1.to(tl.float32), 1)
    delta += tl.sum(g2.to(tl.float32) * o2.to(tl.float32), 1)
    tl.store(delta_out + pair * length + row, delta, inside)
    level = tl.load(lse + pair * length + row, inside, float("inf"))
    q1, q2 = prepared(
        q + base, q_scale, cosine, sine, row, inside, stride_l, factor, True, EPSILON, HEAD, HALF
    )
    d1 = tl.zeros([QUERIES, HALF], tl.float32)
    d2 = tl.zeros([QUERIES, HALF], tl.float32)
    d1, d2 = _over_keys(
        d1, d2, q1, q2, g1, g2, level, delta, k + base, v + base, mask, k_scale, cosine, sine,
        length, stride_l, True, False, EPSILON, HEAD, HALF, KEYS,
    )  # fmt: skip
    if HAS_CONTEXT:
        d1, d2 = _over_keys(
            d1, d2, q1, q2, g1, g2, level, delta, context_k + extra, context_v + extra,
            mask + n * context, k_scale, cosine, sine,
            context, context_l, False, MASKED, EPSILON, HEAD, HALF, KEYS,
        )  # fmt: skip
    natural = factor * 0.6931471805599453
    store_halves(dq + own, row, inside, own_stride, d1 * natural, d2 * natural, HEAD, HALF)


@triton.jit
def keys_kernel(
    dk, dv, grad, lse, delta, q, k, v, q_scale, k_scale, cosine, sine, mask,
    heads, length, keys, stride_n, stride_h, stride_l, key_n, key_h, key_l, factor,
    ROTATE: tl.constexpr, MASKED: tl.constexpr, EPSILON: tl.constexpr,
    HEAD: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The gradients of R(p) RMS(k) g, fp32, and of v, both [n, keys, h, d], of one set of keys."""
    pair = tl.program_id(1).to(tl.int64)
    n, h = pair // heads, pair % heads
    key = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    present = key < keys
    base, key_base = n * stride_n + h * stride_h, n * key_n + h * key_h
    grad_base = (n * length * heads + h) * HEAD
    k1, k2 = prepared(
        k + key_base, k_scale, cosine, sine, key, present, key_l, 1.0, ROTATE, EPSILON, HEAD, HALF
    )
    v1, v2 = halves(v + key_base, key, present, key_l, HEAD, HALF)
    valid = allowed(mask + n * keys, key, present, MASKED)
    dk1, dk2 = tl.zeros([KEYS, HALF], tl.float32), tl.zeros([KEYS, HALF], tl.float32)
    dv1, dv2 = tl.zeros([KEYS, HALF], tl.float32), tl.zeros([KEYS, HALF], tl.float32)
    for start in range(0, length, QUERIES):
        row = start + tl.arange(0, QUERIES)
        inside = row < length
        q1, q2 = prepared(
            q + base, q_scale, cosine, sine, row, inside, stride_l, factor,
            True, EPSILON, HEAD, HALF,
        )  # fmt: skip
        level = tl.load(lse + pair * length + row, inside, float("inf"))
        weight = tl.exp2(product(k1, k2, q1, q2) - level[None, :])
        weight = tl.where(valid[:, None], weight, 0.0)
        g1, g2 = halves(grad + grad_base, row, inside, heads * HEAD, HEAD, HALF)
        rounded = weight.to(g1.dtype)
        dv1 = tl.dot(rounded, g1, dv1, input_precision="ieee")
        dv2 = tl.dot(rounded, g2, dv2, input_precision="ieee")
        shift = tl.load(delta + pair * length + row, inside, 0.0)
        d_score = (weight * (product(v1, v2, g1, g2) - shift[None, :])).to(q1.dtype)
        dk1 = tl.dot(d_score, q1, dk1, input_precision="ieee")
        dk2 = tl.dot(d_score, q2, dk2, input_precision="ieee")
    own = (n * keys * heads + h) * HEAD
    store_halves(dv + own, key, present, heads * HEAD, dv1, dv2, HEAD, HALF)
    natural = 0.6931471805599453
    store_halves(dk + own, key, present, heads * HEAD, dk1 * natural, dk2 * natural, HEAD, HALF)


@triton.jit
def norm_kernel(
    dx, d_scale, grad, x, scale, cosine, sine, heads, length, stride_n, stride_h, stride_l,
    ROTATE: tl.constexpr, EPSILON: tl.constexpr, HEAD: tl.constexpr, HALF: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """dx [n, l, h, d] from the gradient of R(p) RMS(x) g, and the block's share of dg."""
    pair = tl.program_id(1).to(tl.int64)
    n, h = pair // heads, pair % heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < length
    own, stride = (n * length * heads + h) * HEAD, heads * HEAD
    d1, d2 = halves(grad + own, row, inside, stride, HEAD, HALF)
    if ROTATE:
        cos, sin = turns(cosine, sine, row, inside, HEAD, HALF)
        d1, d2 = d1 * cos + d2 * sin, d2 * cos - d1 * sin
    x1, x2 = halves(x + n * stride_n + h * stride_h, row, inside, stride_l, HEAD, HALF)
    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    inverse = inverse_norm(x1, x2, EPSILON, HEAD)
    x1, x2 = x1 * inverse, x2 * inverse
    block = (pair * tl.num_programs(0) + tl.program_id(0)) * HEAD
    store_vector(d_scale + block, d1 * x1, d2 * x2, HEAD, HALF)
    g1, g2 = vector(scale, HEAD, HALF)
    d1, d2 = d1 * g1, d2 * g2
    along = ((tl.sum(d1 * x1, 1) + tl.sum(d2 * x2, 1)) / HEAD)[:, None]
    d1, d2 = inverse * (d1 - x1 * along), inverse * (d2 - x2 * along)
    store_halves(dx + own, row, inside, stride, d1, d2, HEAD, HALF)
