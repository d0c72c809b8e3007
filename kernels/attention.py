"""Softmax attention with normed queries and keys and axial rotary positions: the reference.

    q ← R(p) RMS(q) g_q,   k ← R(p) RMS(k) g_k,   o = softmax(q kᵀ / √d) v

R(p) rotates pair i of a head by the angle p·θ_i; a head's pairs are shared out over the axes of
the grid, so the same code serves one, two and three dimensions. Tokens of a context (text) join
the keys: normed by the same scale, without a position.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_BASE = 100.0
EPSILON = 1e-6


def rotary_angles(grid: tuple[int, ...], head_dim: int) -> Float[Tensor, "l half"]:
    """Angles p·θ of every position of `grid`, row-major; [prod(grid), head_dim / 2].

    Each axis gets the same number of pairs, with frequencies from 1 down to nearly 1/100;
    pairs left over when they do not divide stay unrotated.
    """
    pairs = head_dim // 2 // len(grid)
    frequencies = _BASE ** (-torch.arange(pairs) / pairs)
    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in axes], -1)
    return F.pad(angles, (0, head_dim // 2 - angles.shape[-1]))


def rotate(x: Float[Tensor, "*n l d"], angles: Float[Tensor, "l half"]) -> Float[Tensor, "*n l d"]:
    """R(p) x: pair i is elements (i, i + d/2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    along = x * torch.cat((cos, cos), -1)
    return torch.addcmul(along, torch.cat((second, first), -1), torch.cat((-sin, sin), -1))


class Context(NamedTuple):
    """Keys and values of tokens without a position; `mask` is true where a token counts."""

    k: Float[Tensor, "n h m d"]
    v: Float[Tensor, "n h m d"]
    mask: Bool[Tensor, "n m"] | None = None


def attention(
    q: Float[Tensor, "n h l d"],
    k: Float[Tensor, "n h l d"],
    v: Float[Tensor, "n h l d"],
    q_scale: Float[Tensor, " d"],
    k_scale: Float[Tensor, " d"],
    angles: Float[Tensor, "l half"],
    context: Context | None = None,
) -> Float[Tensor, "n h l d"]:
    """Attention of every position to every position, and to the context's; the scale is 1/√d."""
    head, scales = (q.shape[-1],), torch.stack((q_scale, k_scale))
    normed = F.rms_norm(torch.stack((q, k)), head, eps=EPSILON)
    q, k = rotate(normed * scales[:, None, None, None], angles)
    if context is None:
        return F.scaled_dot_product_attention(q, k, v)
    extra = F.rms_norm(context.k, head, k_scale, EPSILON)
    mask = None
    if context.mask is not None:
        mask = F.pad(context.mask, (k.shape[2], 0), value=True)[:, None, None]
    keys, values = torch.cat((k, extra), 2), torch.cat((v, context.v), 2)
    return F.scaled_dot_product_attention(q, keys, values, mask)
