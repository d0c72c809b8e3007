"""diffusers' DiT in the place of the base model: as wide, as deep, over the same tokens.

Ours runs its inner blocks on a quarter of the tokens, so the two differ in work; both counts are
given. Its weights are random: speed does not depend on them.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig


class Rival(BaseModel):
    """(z_t, λ, label) → v̂, as the base model's, by `DiTTransformer2DModel`: none of its parts."""

    def __init__(self, config: BaseConfig) -> None:
        nn.Module.__init__(self)
        channels, side = config.latent_shape[0], config.latent_shape[-1]
        outer = config.outer
        library: Any = importlib.import_module("diffusers")  # for development only
        self.config = config
        self.network = library.DiTTransformer2DModel(
            num_attention_heads=outer.width // outer.head_dim,
            attention_head_dim=outer.head_dim,
            in_channels=channels,
            out_channels=channels,
            num_layers=outer.depth + config.inner.depth,
            sample_size=side,
            patch_size=1,
            num_embeds_ada_norm=config.classes,
        )

    def forward(self, z_t: Tensor, log_snr: Tensor, label: Tensor, *context: Tensor) -> Tensor:
        v_hat: Tensor = self.network(z_t, log_snr, label, return_dict=False)[0]
        return v_hat


def flops(base: BaseModel, shape: tuple[int, ...]) -> int:
    """FLOPs of one row's evaluation; a multiply-add is two."""
    counter = FlopCounterMode(display=False)
    label = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad(), counter:
        base(torch.zeros(1, *shape), torch.zeros(1), label)
    return int(counter.get_total_flops())
