"""Transformer blocks with adaptive layer norm: attention, then a two-layer perceptron."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified_latents.kernels.attention import Context
from unified_latents.kernels.dispatch import attention, gated_residual, gelu, modulate
from unified_latents.models.config import TransformerConfig
from unified_latents.models.layers import zeroed

_MLP_RATIO = 4


class Tokens(NamedTuple):
    """Tokens without a position that every position attends to; `mask` is true where one counts."""

    states: Float[Tensor, "n m e"]
    mask: Bool[Tensor, "n m"]


class Attention(nn.Module):
    """Self-attention with learned scales on the normed queries and keys.

    Further tokens, of width `text`, join the keys: each that there is a layer for, or none.
    """

    def __init__(self, config: TransformerConfig, text: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_scale = nn.Parameter(torch.ones(config.head_dim))
        self.k_scale = nn.Parameter(torch.ones(config.head_dim))
        self.output = nn.Linear(config.width, config.width)
        self.text = nn.ModuleList(nn.Linear(width, 2 * config.width) for width in text)

    def forward(
        self, x: Float[Tensor, "n l d"], angles: Float[Tensor, "l half"], *tokens: Tokens
    ) -> Float[Tensor, "n l d"]:
        q, k, v = rearrange(self.qkv(x), "n l (k h d) -> k n h l d", k=3, h=self.heads)
        context = (
            self._joined(layer, each) for layer, each in zip(self.text, tokens, strict=bool(tokens))
        )
        scales = self.q_scale.type_as(q), self.k_scale.type_as(k)
        heads = attention(q, k, v, *scales, angles, *context)
        return self.output(rearrange(heads, "n h l d -> n l (h d)"))

    def _joined(self, layer: nn.Module, tokens: Tokens) -> Context:
        k, v = rearrange(layer(tokens.states), "n m (k h d) -> k n h m d", k=2, h=self.heads)
        return Context(k, v, tokens.mask)


class GELU(nn.Module):
    """`kernels.gelu.gelu`."""

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        return gelu(x)


class Block(nn.Module):
    """x + g₁ attention(modulate(x)), then x + g₂ mlp(modulate(x)); the identity at the start."""

    def __init__(
        self, config: TransformerConfig, conditioning: int, text: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(conditioning, 6 * config.width))
        self.attention = Attention(config, text)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, _MLP_RATIO * config.width),
            GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(_MLP_RATIO * config.width, config.width),
        )

    def forward(
        self,
        x: Float[Tensor, "n l d"],
        c: Float[Tensor, "n e"],
        angles: Float[Tensor, "l half"],
        *tokens: Tokens,
    ) -> Float[Tensor, "n l d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)
        x = gated_residual(x, self.attention(modulate(x, shift1, scale1), angles, *tokens), gate1)
        return gated_residual(x, self.mlp(modulate(x, shift2, scale2)), gate2)


class Transformer(nn.Module):
    """`depth` blocks under one conditioning vector, and over further tokens of width `text`."""

    def __init__(
        self,
        config: TransformerConfig,
        depth: int,
        conditioning: int,
        text: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, conditioning, text) for _ in range(depth))

    def forward(
        self,
        x: Float[Tensor, "n l d"],
        c: Float[Tensor, "n e"],
        angles: Float[Tensor, "l half"],
        *tokens: Tokens,
    ) -> Float[Tensor, "n l d"]:
        for block in self.blocks:
            x = block(x, c, angles, *tokens)
        return x
