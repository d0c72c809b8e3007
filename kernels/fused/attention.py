"""Fused attention: norm, rotation and softmax in one launch, and four for the backward pass.

q, k and v are read where the projection left them (any strides with consecutive channels), and
the result is laid out as the next projection reads it, [n, l, h, d].
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unified_latents.kernels.attention import EPSILON, Context
from unified_latents.kernels.errors import UnsupportedError, require
from unified_latents.kernels.fused.attend import attend_kernel
from unified_latents.kernels.fused.attend_backward import keys_kernel, norm_kernel, queries_kernel
from unified_latents.kernels.fused.launch import (
    MAX_ROWS,
    REGISTERS,
    check,
    chunks,
    padded,
    same_shape,
)
from unified_latents.kernels.fused.tiles import Tiles, chosen

HEAD_DIMS = (32, 64, 96, 128)
_LOG2_E = 1.4426950408889634


class _Prepared(NamedTuple):
    """Tensors as a launch takes them, and its constants."""

    q: Tensor
    k: Tensor
    v: Tensor
    cosine: Tensor
    sine: Tensor
    context_k: Tensor
    context_v: Tensor
    mask: Tensor
    constants: dict[str, Any]

    @property
    def sizes(self) -> tuple[float, ...]:
        """heads, length, context, three strides of q, three of the context, the factor."""
        heads, length, head = self.q.shape[1:]
        context = self.context_k.shape[2] if self.constants["HAS_CONTEXT"] else 0
        strides = (*self.q.stride()[:3], *self.context_k.stride()[:3])
        return heads, length, context, *strides, _LOG2_E / math.sqrt(head)


def _alike(*tensors: Tensor) -> list[Tensor]:
    """The tensors with one set of strides and consecutive channels; copies only where needed."""
    strides = {each.stride() for each in tensors}
    if len(strides) == 1 and tensors[0].stride(-1) == 1:
        return list(tensors)
    return [each.contiguous() for each in tensors]


def _prepare(
    q: Tensor, k: Tensor, v: Tensor, scales: tuple[Tensor, Tensor], angles: Tensor,
    context_k: Tensor | None, context_v: Tensor | None, mask: Tensor | None,
) -> _Prepared:  # fmt: skip
    _check_own(q, k, v, scales, angles)
    q, k, v = _alike(q, k, v)
    extra = [k, v]
    if context_k is not None and context_v is not None:
        _check_context(q, context_k, context_v, mask)
        extra = _alike(context_k, context_v)
    keep = q if mask is None else mask.to(torch.uint8).contiguous()
    constants = {"HAS_CONTEXT": context_k is not None, "MASKED": mask is not None}
    turns = angles.float()
    return _Prepared(q, k, v, turns.cos(), turns.sin(), extra[0], extra[1], keep, constants)


def _check_own(
    q: Tensor, k: Tensor, v: Tensor, scales: tuple[Tensor, Tensor], angles: Tensor
) -> None:
    require("number of axes", q.ndim, (4,))
    require("head dim", q.shape[-1], HEAD_DIMS)
    check(attend_kernel, q, k, v, *scales)
    same_shape(q, k, v)
    if q.shape[0] * q.shape[1] > MAX_ROWS:
        raise UnsupportedError("samples × heads", q.shape[0] * q.shape[1], (f"at most {MAX_ROWS}",))
    for each in (k, v):
        require("dtype", each.dtype, (q.dtype,))
    for each in scales:
        require("shape of a scale", tuple(each.shape), ((q.shape[3],),))
    require("angles", tuple(angles.shape), ((q.shape[2], q.shape[3] // 2),))
    require("device of angles", angles.device, (q.device,))


def _check_context(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    check(attend_kernel, k, v, q)
    same_shape(k, v)
    require("number of axes", k.ndim, (4,))
    require("context", (*k.shape[:2], k.shape[3]), ((*q.shape[:2], q.shape[3]),))
    for each in (k, v):
        require("dtype", each.dtype, (q.dtype,))
    if mask is not None:
        require("mask dtype", mask.dtype, (torch.bool,))
        require("mask", tuple(mask.shape), ((k.shape[0], k.shape[2]),))
        require("device", mask.device, (q.device,))


def _tiles(kernel: str, q: Tensor) -> Tiles:
    return chosen(kernel, q.shape[-1], q.dtype, q.device)


def _cut(tiles: Tiles, head: int) -> dict[str, Any]:
    """What every attention kernel is compiled for."""
    return {
        "EPSILON": EPSILON, "HEAD": head, "HALF": padded(head // 2),
        "QUERIES": tiles.queries, "KEYS": tiles.keys,
        "num_warps": tiles.warps, "num_stages": tiles.stages, "maxnreg": REGISTERS,
    }  # fmt: skip


def _heads_last(like: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised [n, h, l, d] that lies in memory as [n, l, h, d]."""
    n, h, length, d = like.shape
    return like.new_empty((n, length, h, d), dtype=dtype).transpose(1, 2)


@torch.library.custom_op("unified_latents::attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, q_scale: Tensor, k_scale: Tensor, angles: Tensor,
    context_k: Tensor | None, context_v: Tensor | None, mask: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    p = _prepare(q, k, v, (q_scale, k_scale), angles, context_k, context_v, mask)
    (n, heads, length, head), tiles = q.shape, _tiles("attend", q)
    out, lse = _heads_last(q, q.dtype), q.new_empty((n, heads, length), dtype=torch.float32)
    attend_kernel[(chunks(length, tiles.queries), n * heads)](
        out, lse, p.q, p.k, p.v, q_scale, k_scale, p.cosine, p.sine,
        p.context_k, p.context_v, p.mask, *p.sizes, **p.constants, **_cut(tiles, head),
    )  # fmt: skip
    return out, lse


@_attention.register_fake
def _(q, k, v, q_scale, k_scale, angles, context_k, context_v, mask):
    return _heads_last(q, q.dtype), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("unified_latents::attention_backward", mutates_args=())
def _backward(
    grad: Tensor, out: Tensor, lse: Tensor,
    q: Tensor, k: Tensor, v: Tensor, q_scale: Tensor, k_scale: Tensor, angles: Tensor,
    context_k: Tensor | None, context_v: Tensor | None, mask: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    p = _prepare(q, k, v, (q_scale, k_scale), angles, context_k, context_v, mask)
    (n, heads, length, head), tiles = q.shape, _tiles("queries", q)
    grad = grad.transpose(1, 2).contiguous()
    inner, delta = _heads_last(q, torch.float32), torch.empty_like(lse)
    queries_kernel[(chunks(length, tiles.queries), n * heads)](
        inner, delta, grad, out, lse, p.q, p.k, p.v, q_scale, k_scale, p.cosine, p.sine,
        p.context_k, p.context_v, p.mask, *p.sizes, **p.constants, **_cut(tiles, head),
    )  # fmt: skip
    dq, dq_scale = _through_norm(inner, p.q, q_scale, p, own=True)
    sets = [(p.k, p.v, True)]
    sets += [(p.context_k, p.context_v, False)] if context_k is not None else []
    of_keys, shares, tiles = [], [], _tiles("keys", q)
    for keys, values, own in sets:
        inner, dv = _heads_last(keys, torch.float32), _heads_last(keys, keys.dtype)
        keys_kernel[(chunks(keys.shape[2], tiles.keys), n * heads)](
            inner, dv, grad, lse, delta, p.q, keys, values, q_scale, k_scale,
            p.cosine, p.sine, p.mask,
            heads, length, keys.shape[2], *p.q.stride()[:3], *keys.stride()[:3], p.sizes[-1],
            ROTATE=own, MASKED=mask is not None and not own, **_cut(tiles, head),
        )  # fmt: skip
        dk, share = _through_norm(inner, keys, k_scale, p, own=own)
        of_keys += [dk, dv]
        shares.append(share)
    return [dq, *of_keys[:2], dq_scale, torch.stack(shares).sum(0), *of_keys[2:]]


def _through_norm(
    inner: Tensor, x: Tensor, scale: Tensor, p: _Prepared, *, own: bool
) -> tuple[Tensor, Tensor]:
    """Back through rotation (`own` positions) and norm: dx, and the scale's gradient in fp32."""
    n, heads, length, head = x.shape
    half, dx = padded(head // 2), _heads_last(x, x.dtype)
    rows = max(16, 2048 // half)
    blocks = chunks(length, rows)
    shares = x.new_empty((n * heads * blocks, head), dtype=torch.float32)
    norm_kernel[(blocks, n * heads)](
        dx, shares, inner, x, scale, p.cosine, p.sine, heads, length, *x.stride()[:3],
        ROTATE=own, EPSILON=EPSILON, HEAD=head, HALF=half, ROWS=rows,
        num_warps=4, maxnreg=REGISTERS,
    )  # fmt: skip
    return dx, shares.sum(0)


@_backward.register_fake
def _(grad, out, lse, q, k, v, q_scale, k_scale, angles, context_k, context_v, mask):
    scales = [each.new_empty(each.shape, dtype=torch.float32) for each in (q_scale, k_scale)]
    context = (
        []
        if context_k is None
        else [_heads_last(each, each.dtype) for each in (context_k, context_v)]
    )
    return [*(_heads_last(each, each.dtype) for each in (q, k, v)), *scales, *context]


def _saved(ctx, inputs, output):
    ctx.save_for_backward(*output, *inputs)
    ctx.mark_non_differentiable(output[1])


def _grad(ctx, grad, _):
    out, lse, *inputs = ctx.saved_tensors
    dq, dk, dv, dq_scale, dk_scale, *context = _backward(grad, out, lse, *inputs)
    scales = dq_scale.to(inputs[3].dtype), dk_scale.to(inputs[4].dtype)
    return dq, dk, dv, *scales, None, *(context or (None, None)), None


_attention.register_autograd(_grad, setup_context=_saved)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    angles: Tensor,
    context: Context | None = None,
) -> Tensor:
    """`kernels.attention.attention`; head dims 32, 64, 96 and 128."""
    extra = (None, None, None) if context is None else context
    scales = q_scale.contiguous(), k_scale.contiguous()
    return _attention(q, k, v, *scales, angles, *extra)[0]
