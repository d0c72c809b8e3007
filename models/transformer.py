"""Transformer blocks with adaptive layer norm: attention, then a two-layer perceptron."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unified_latents.kernels.dispatch import attention, gated_residual, modulate
from unified_latents.models.config import TransformerConfig
from unified_latents.models.layers import zeroed

_MLP_RATIO = 4


class Attention(nn.Module):
    """Self-attention with learned scales on the normed queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_scale = nn.Parameter(torch.ones(config.head_dim))
        self.k_scale = nn.Parameter(torch.ones(config.head_dim))
        self.output = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "n l d"], angles: Float[Tensor, "l half"]
    ) -> Float[Tensor, "n l d"]:
        q, k, v = rearrange(self.qkv(x), "n l (k h d) -> k n h l d", k=3, h=self.heads)
        heads = attention(q, k, v, self.q_scale.type_as(q), self.k_scale.type_as(k), angles)
        return self.output(rearrange(heads, "n h l d -> n l (h d)"))


class Block(nn.Module):
    """x + g₁ attention(modulate(x)), then x + g₂ mlp(modulate(x)); the identity at the start."""

    def __init__(self, config: TransformerConfig, conditioning: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(conditioning, 6 * config.width))
        self.attention = Attention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, _MLP_RATIO * config.width),
            nn.GELU("tanh"),
            nn.Dropout(config.dropout),
            nn.Linear(_MLP_RATIO * config.width, config.width),
        )

    def forward(
        self,
        x: Float[Tensor, "n l d"],
        c: Float[Tensor, "n e"],
        angles: Float[Tensor, "l half"],
    ) -> Float[Tensor, "n l d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)
        x = gated_residual(x, self.attention(modulate(x, shift1, scale1), angles), gate1)
        return gated_residual(x, self.mlp(modulate(x, shift2, scale2)), gate2)


class Transformer(nn.Module):
    """`depth` blocks under one conditioning vector."""

    def __init__(self, config: TransformerConfig, depth: int, conditioning: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, conditioning) for _ in range(depth))

    def forward(
        self,
        x: Float[Tensor, "n l d"],
        c: Float[Tensor, "n e"],
        angles: Float[Tensor, "l half"],
    ) -> Float[Tensor, "n l d"]:
        for block in self.blocks:
            x = block(x, c, angles)
        return x
