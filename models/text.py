"""A base model under captions instead of classes.

A caption comes as the states of a text encoder that this package does not hold: one vector a
token, and one for the whole. The whole joins the level in the conditioning vector; the tokens join
the keys of every block. The paper does not say how its text enters [C]; this is the usual way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, TextConfig
from unified_latents.models.transformer import Tokens


class Caption(NamedTuple):
    """What a text encoder made of n captions of at most m tokens; `mask` is true where one is."""

    tokens: Float[Tensor, "n m e"]
    pooled: Float[Tensor, "n p"]
    mask: Bool[Tensor, "n m"]

    def nothing(self) -> Caption:
        """No caption, in the same shape: what guidance takes the difference from."""
        return Caption(
            torch.zeros_like(self.tokens),
            torch.zeros_like(self.pooled),
            torch.zeros_like(self.mask),
        )


class TextBaseModel(BaseModel):
    """(z_t [n, z, *grid], λ [n], caption) → v̂."""

    def __init__(self, config: BaseConfig, text: TextConfig) -> None:
        width = config.inner.width
        super().__init__(config, text=(width,))
        self.text = text
        self.label = nn.Linear(text.pooled, width)
        self.tokens = nn.Linear(text.width, width)

    def forward(  # type: ignore[override]  # a caption where the other has a class
        self,
        z_t: Float[Tensor, "n z *g"],
        log_snr: Float[Tensor, " n"],
        caption: Caption,
        *context: Float[Tensor, "n k *g"],
    ) -> Float[Tensor, "n z *g"]:
        tokens = Tokens(self.tokens(caption.tokens), caption.mask)
        condition = self.level(log_snr) + self.label(caption.pooled)
        return self.denoise(z_t, condition, context, (tokens,))
