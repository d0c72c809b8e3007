"""The prior P: a single-level ViT that denoises latents. Its loss is the latent's bitrate."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from unified_latents.models.config import Space, TransformerConfig
from unified_latents.models.layers import LevelEmbedding, Output, Positions, to_grid, to_tokens
from unified_latents.models.transformer import Transformer


class Prior(nn.Module):
    """(z_t, λ) → v̂, all [n, z, *grid]; patch 1."""

    def __init__(self, config: TransformerConfig, latent_channels: int, grid: Space) -> None:
        super().__init__()
        self.grid = grid
        self.input = nn.Linear(latent_channels, config.width)
        self.positions = Positions(grid, config.width, config.head_dim)
        self.level = LevelEmbedding(config.width)
        self.transformer = Transformer(config, config.depth, config.width)
        self.output = Output(config.width, latent_channels, config.width)

    def forward(
        self, z_t: Float[Tensor, "n z *g"], log_snr: Float[Tensor, " n"]
    ) -> Float[Tensor, "n z *g"]:
        c = F.silu(self.level(log_snr))
        h = self.input(to_tokens(z_t)) + self.positions()
        h = self.transformer(h, c, self.positions.angles)
        return to_grid(self.output(h, c), self.grid)
