"""The encoder E: a deterministic ResNet on patches, z_clean = E(x)."""

from __future__ import annotations

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from unified_latents.models.config import EncoderConfig
from unified_latents.models.layers import (
    ResBlock,
    convolution,
    downsampling,
    group_norm,
    patchify,
)


class Encoder(nn.Module):
    """[n, c, *size] in [−1, 1] → [n, z, *grid]; purely convolutional."""

    def __init__(self, config: EncoderConfig, image_channels: int, latent_channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        space = len(config.patch)
        inputs = image_channels * math.prod(config.patch)
        self.stem = convolution(space, inputs, config.channels[0], 1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResBlock(space, width) for _ in range(depth)))
            for width, depth in zip(config.channels, config.blocks, strict=True)
        )
        self.down = nn.ModuleList(
            downsampling(wide, deep, stride)
            for (wide, deep), stride in zip(pairwise(config.channels), config.strides, strict=True)
        )
        self.output = nn.Sequential(
            group_norm(config.channels[-1]),
            nn.SiLU(),
            convolution(space, config.channels[-1], latent_channels),
        )

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n z *g"]:
        h = self.stages[0](self.stem(patchify(x, self.patch)))
        for down, stage in zip(self.down, self.stages[1:], strict=True):
            h = stage(down(h))
        return self.output(h)
