"""The pieces that the four networks share, over any number of spatial dimensions."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from unified_latents.kernels.attention import rotary_angles
from unified_latents.kernels.dispatch import modulate
from unified_latents.models.config import Space

_CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_LEVEL_FEATURES = 128
_POSITION_OCTAVES = 4


def convolution(space: int, inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
    """A convolution over `space` dimensions that keeps the grid."""
    return _CONVOLUTIONS[space](inputs, outputs, kernel, padding=kernel // 2)


def unbiased(space: int, inputs: int, outputs: int) -> nn.Module:
    """A linear map of every cell's channels: zeros stay zeros."""
    return _CONVOLUTIONS[space](inputs, outputs, 1, bias=False)


def downsampling(inputs: int, outputs: int, stride: Space) -> nn.Module:
    """A convolution whose kernel is its stride: each output sees one patch."""
    return _CONVOLUTIONS[len(stride)](inputs, outputs, stride, stride)  # type: ignore[arg-type]


def zeroed(module: nn.Module) -> nn.Module:
    """The same module with every parameter at zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, of at least four channels where the width divides so."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)


def patchify(x: Float[Tensor, "n c *s"], patch: Space) -> Float[Tensor, "n cp *g"]:
    """Space to depth: [n, c, *s] → [n, c · prod(patch), *(s / patch)]."""
    for axis, factor in enumerate(patch):
        x = x.unflatten(2 + 2 * axis, (-1, factor))
    grid = [2 + 2 * axis for axis in range(len(patch))]
    return x.permute(0, 1, *(axis + 1 for axis in grid), *grid).flatten(1, 1 + len(patch))


def unpatchify(x: Float[Tensor, "n cp *g"], patch: Space) -> Float[Tensor, "n c *s"]:
    """Depth to space, the inverse of `patchify`."""
    space = len(patch)
    x = x.unflatten(1, (-1, *patch))
    order = [axis for i in range(space) for axis in (2 + space + i, 2 + i)]
    x = x.permute(0, 1, *order)
    for axis in range(space):
        x = x.flatten(2 + axis, 3 + axis)
    return x


def to_tokens(x: Float[Tensor, "n c *g"]) -> Float[Tensor, "n l c"]:
    """A grid as a row-major sequence, laid out as one: products with a view go sample by sample."""
    return rearrange(x, "n c ... -> n (...) c").contiguous()


def to_grid(x: Float[Tensor, "n l c"], grid: Space) -> Float[Tensor, "n c *g"]:
    """The inverse of `to_tokens`."""
    return x.transpose(1, 2).unflatten(2, grid)


def upsample(x: Float[Tensor, "n c *g"], grid: Space) -> Float[Tensor, "n c *s"]:
    """Nearest neighbour to `grid`."""
    return F.interpolate(x, grid, mode="nearest")


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the identity at the start."""

    def __init__(self, space: int, channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = convolution(space, channels, channels)
        self.norm2 = group_norm(channels)
        self.conv2 = zeroed(convolution(space, channels, channels))

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class ModulatedResBlock(nn.Module):
    """A residual block whose second norm takes shift and scale from the conditioning vector."""

    def __init__(self, space: int, inputs: int, outputs: int, conditioning: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = convolution(space, inputs, outputs)
        self.norm2 = group_norm(outputs)
        self.conv2 = zeroed(convolution(space, outputs, outputs))
        self.modulation = zeroed(nn.Linear(conditioning, 2 * outputs))
        self.skip = nn.Identity() if inputs == outputs else convolution(space, inputs, outputs, 1)

    def forward(
        self, x: Float[Tensor, "n i *s"], c: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n o *s"]:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        modulation = self.modulation(c).unflatten(1, (2, -1))
        shift, scale = modulation.reshape(*modulation.shape, *[1] * (x.ndim - 2)).unbind(1)
        return self.skip(x) + self.conv2(F.silu(h * (1 + scale) + shift))


class LevelEmbedding(nn.Module):
    """λ → a vector: sines and cosines of λ at frequencies 2 … 1/500, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_LEVEL_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, log_snr: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        half = _LEVEL_FEATURES // 2
        exponents = torch.arange(half, device=log_snr.device) / half
        angles = log_snr[:, None] * (2 * torch.exp(-math.log(1000) * exponents))
        return self.layers(torch.cat((angles.sin(), angles.cos()), -1))


class Positions(nn.Module):
    """Where a token is, twice: rotary angles inside attention, and an embedding added once.

    Rotary positions alone see only differences, and on pure noise nothing else tells the corner
    of an image from its middle. No parameter depends on the grid.
    """

    def __init__(self, grid: Space, width: int, head_dim: int) -> None:
        super().__init__()
        axes = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
        octaves = math.pi * 2.0 ** torch.arange(_POSITION_OCTAVES)
        phases = torch.cat([axis.reshape(-1, 1) * octaves for axis in axes], -1)
        features = torch.cat((phases.sin(), phases.cos()), -1)
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("angles", rotary_angles(grid, head_dim), persistent=False)
        self.features: Tensor
        self.angles: Tensor
        self.embedding = nn.Linear(features.shape[-1], width, bias=False)

    def forward(self) -> Float[Tensor, "l d"]:
        return self.embedding(self.features)


class Output(nn.Module):
    """The last layer of a transformer: modulated norm and a projection, zero at the start."""

    def __init__(self, width: int, outputs: int, conditioning: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(conditioning, 2 * width))
        self.projection = zeroed(nn.Linear(width, outputs))

    def forward(self, x: Float[Tensor, "n l d"], c: Float[Tensor, "n e"]) -> Float[Tensor, "n l o"]:
        shift, scale = self.modulation(c).chunk(2, -1)
        return self.projection(modulate(x, shift, scale))
