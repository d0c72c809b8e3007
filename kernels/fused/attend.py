"""The forward attention kernel: one program a block of queries, keys and values streamed once.

The softmax is kept in base 2: the queries carry the factor log₂(e) / √d.
"""

from __future__ import annotations

import triton
import triton.language as tl

from unified_latents.kernels.fused.heads import (
    allowed,
    halves,
    prepared,
    product,
    store_halves,
)


@triton.jit
def _over_keys(
    sum1, sum2, largest, total, q1, q2, k, v, mask, k_scale, cosine, sine, length, stride,
    ROTATE: tl.constexpr, MASKED: tl.constexpr, EPSILON: tl.constexpr,
    HEAD: tl.constexpr, HALF: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The running softmax over one set of keys; every row has met a key before a masked one."""
    for start in range(0, length, KEYS):
        row = start + tl.arange(0, KEYS)
        inside = row < length
        k1, k2 = prepared(
            k, k_scale, cosine, sine, row, inside, stride, 1.0, ROTATE, EPSILON, HEAD, HALF
        )
        score = product(q1, q2, k1, k2)
        score = tl.where(allowed(mask, row, inside, MASKED)[None, :], score, -float("inf"))
        highest = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - highest[:, None])
        shrink = tl.exp2(largest - highest)
        total = total * shrink + tl.sum(weight, 1)
        largest = highest
        v1, v2 = halves(v, row, inside, stride, HEAD, HALF)
        weight = weight.to(v1.dtype)
        sum1 = tl.dot(weight, v1, sum1 * shrink[:, None], input_precision="ieee")
        sum2 = tl.dot(weight, v2, sum2 * shrink[:, None], input_precision="ieee")
    return sum1, sum2, largest, total


@triton.jit
def attend_kernel(
    out, lse, q, k, v, q_scale, k_scale, cosine, sine, context_k, context_v, mask,
    heads, length, context, stride_n, stride_h, stride_l, context_n, context_h, context_l, factor,
    HAS_CONTEXT: tl.constexpr, MASKED: tl.constexpr, EPSILON: tl.constexpr,
    HEAD: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """out [n, l, h, d]; lse [n, h, l] is log₂ Σ 2^score, for the backward pass."""
    pair = tl.program_id(1).to(tl.int64)
    n, h = pair // heads, pair % heads
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = row < length
    base, extra = n * stride_n + h * stride_h, n * context_n + h * context_h
    q1, q2 = prepared(
        q + base, q_scale, cosine, sine, row, inside, stride_l, factor, True, EPSILON, HEAD, HALF
    )
    sum1 = tl.zeros([QUERIES, HALF], tl.float32)
    sum2 = tl.zeros([QUERIES, HALF], tl.float32)
    largest = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sum1, sum2, largest, total = _over_keys(
        sum1, sum2, largest, total, q1, q2, k + base, v + base, mask, k_scale, cosine, sine,
        length, stride_l, True, False, EPSILON, HEAD, HALF, KEYS,
    )  # fmt: skip
    if HAS_CONTEXT:
        sum1, sum2, largest, total = _over_keys(
            sum1, sum2, largest, total, q1, q2, context_k + extra, context_v + extra,
            mask + n * context, k_scale, cosine, sine,
            context, context_l, False, MASKED, EPSILON, HEAD, HALF, KEYS,
        )  # fmt: skip
    sum1, sum2 = sum1 / total[:, None], sum2 / total[:, None]
    start = (n * length * heads + h) * HEAD
    store_halves(out + start, row, inside, heads * HEAD, sum1, sum2, HEAD, HALF)
    tl.store(lse + pair * length + row, largest + tl.log2(total), inside)
