"""The decoder D: a U-ViT on patches that denoises images given the noisy latent z_0.

z_0 enters twice: beside the patches at the input, and added to the tokens of the transformer,
each time brought to that grid by nearest neighbour. The paper does not say how [C]. What is known
of the picture (`frames`) is added at the input; nothing known is the same as zeros.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from unified_latents.models.config import DecoderConfig, Space
from unified_latents.models.layers import (
    LevelEmbedding,
    ModulatedResBlock,
    Positions,
    convolution,
    downsampling,
    group_norm,
    patchify,
    to_grid,
    to_tokens,
    unbiased,
    unpatchify,
    upsample,
    zeroed,
)
from unified_latents.models.transformer import Transformer


class DownStage(nn.Module):
    """Residual blocks; hands back what the way up will see again, and the smaller grid."""

    def __init__(
        self, channels: int, outputs: int, blocks: int, stride: Space, conditioning: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ModulatedResBlock(len(stride), channels, channels, conditioning) for _ in range(blocks)
        )
        self.down = downsampling(channels, outputs, stride)

    def forward(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            h = block(h, c)
        return h, self.down(h)


class UpStage(nn.Module):
    """Back to the stage's grid, joined with the skip, then residual blocks."""

    def __init__(
        self, inputs: int, channels: int, blocks: int, space: int, conditioning: int
    ) -> None:
        super().__init__()
        self.up = convolution(space, inputs, channels, 1)
        self.blocks = nn.ModuleList(
            ModulatedResBlock(space, 2 * channels if i == 0 else channels, channels, conditioning)
            for i in range(blocks)
        )

    def forward(self, h: Tensor, skip: Tensor, c: Tensor) -> Tensor:
        h = torch.cat((skip, upsample(self.up(h), tuple(skip.shape[2:]))), 1)
        for block in self.blocks:
            h = block(h, c)
        return h


class Decoder(nn.Module):
    """(x_t [n, c, *size], λ [n], z_0 [n, z, *grid]) → v̂ [n, c, *size].

    `context` has the channels of each further input, on the picture's grid: all are given or none.
    """

    def __init__(
        self,
        config: DecoderConfig,
        image_channels: int,
        latent_channels: int,
        grid: Space,
        context: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, grid
        space, width = len(config.patch), config.transformer.width
        pixels = image_channels * math.prod(config.patch)
        deeper = (*config.channels[1:], width)
        self.level = LevelEmbedding(width)
        self.stem = convolution(space, pixels + latent_channels, config.channels[0], 1)
        self.context = nn.ModuleList(
            unbiased(space, known * math.prod(config.patch), config.channels[0])
            for known in context
        )
        self.down = nn.ModuleList(
            DownStage(channels, outputs, config.blocks, stride, width)
            for channels, outputs, stride in zip(
                config.channels, deeper, config.strides, strict=True
            )
        )
        self.latent = nn.Linear(latent_channels, width)
        self.positions = Positions(grid, width, config.transformer.head_dim)
        self.transformer = Transformer(config.transformer, config.transformer.depth, width)
        self.up = nn.ModuleList(
            UpStage(inputs, channels, config.blocks, space, width)
            for channels, inputs in zip(reversed(config.channels), reversed(deeper), strict=True)
        )
        self.norm = group_norm(config.channels[0])
        self.output = zeroed(convolution(space, config.channels[0], pixels))

    def forward(
        self,
        x_t: Float[Tensor, "n c *s"],
        log_snr: Float[Tensor, " n"],
        z_0: Float[Tensor, "n z *g"],
        *context: Float[Tensor, "n k *s"],
    ) -> Float[Tensor, "n c *s"]:
        c = F.silu(self.level(log_snr))
        patches = patchify(x_t, self.patch)
        h = self.stem(torch.cat((patches, upsample(z_0, tuple(patches.shape[2:]))), 1))
        for layer, known in zip(self.context, context, strict=bool(context)):
            h = h + layer(patchify(known, self.patch))
        skips = []
        for stage in self.down:
            skip, h = stage(h, c)
            skips.append(skip)
        tokens = to_tokens(h) + self.latent(to_tokens(upsample(z_0, self.grid))) + self.positions()
        h = to_grid(self.transformer(tokens, c, self.positions.angles), self.grid)
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            h = stage(h, skip, c)
        return unpatchify(self.output(F.silu(self.norm(h))), self.patch)
