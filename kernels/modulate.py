"""Adaptive layer norm (Peebles & Xie, 2022): the two memory-bound halves of a block, reference.

modulate(x) = LN(x) (1 + scale) + shift        residual(x, y) = x + gate · y
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-6


def modulate(
    x: Float[Tensor, "n l d"], shift: Float[Tensor, "n d"], scale: Float[Tensor, "n d"]
) -> Float[Tensor, "n l d"]:
    """Layer norm without affine, then one shift and scale a sample."""
    normed = F.layer_norm(x, x.shape[-1:], eps=_EPSILON)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


def gated_residual(
    x: Float[Tensor, "n l d"], y: Float[Tensor, "n l d"], gate: Float[Tensor, "n d"]
) -> Float[Tensor, "n l d"]:
    """x + gate · y, one gate a sample and channel."""
    return torch.addcmul(x, gate[:, None], y)
