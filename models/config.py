"""Sizes of the networks, as frozen dataclasses that check themselves.

Space has any number of dimensions: (height, width) for images, (time, height, width) for video.
Every tuple over space has that length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unified_latents.models.schedule import CosineSchedule, LinearSchedule

Space = tuple[int, ...]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _total(patch: Space, strides: tuple[Space, ...]) -> Space:
    return tuple(math.prod(factors) for factors in zip(patch, *strides, strict=True))


@dataclass(frozen=True)
class EncoderConfig:
    """A ResNet on patches: `blocks[i]` residual blocks of `channels[i]`, `strides[i]` after it."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    patch: Space
    strides: tuple[Space, ...]

    def __post_init__(self) -> None:
        _require(len(self.blocks) == len(self.channels), "blocks and channels differ in length")
        _require(len(self.strides) == len(self.channels) - 1, "one stride between two stages")

    @property
    def downsampling(self) -> Space:
        return _total(self.patch, self.strides)


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of `depth` blocks on tokens of `width`."""

    width: int
    depth: int
    head_dim: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require(self.width % self.head_dim == 0, "width must be a multiple of head_dim")
        _require(self.head_dim % 2 == 0, "head_dim must be even: rotary positions turn pairs")
        _require(0 <= self.dropout < 1, "dropout must be in [0, 1)")

    @property
    def heads(self) -> int:
        return self.width // self.head_dim


@dataclass(frozen=True)
class DecoderConfig:
    """A U-ViT on patches: `blocks` residual blocks a convolution stage, on each way.

    `strides[i]` lies below stage i, so the last one leads to the transformer's grid, which is the
    latent grid or a multiple of it.
    """

    channels: tuple[int, ...]
    blocks: int
    patch: Space
    strides: tuple[Space, ...]
    transformer: TransformerConfig

    def __post_init__(self) -> None:
        _require(len(self.strides) == len(self.channels), "one stride below each stage")

    @property
    def downsampling(self) -> Space:
        return _total(self.patch, self.strides)


@dataclass(frozen=True)
class UnifiedConfig:
    """Stage 1: encoder, prior and decoder, their schedules, and the two knobs of the bitrate.

    `loss_factor` is c_lf and `decoder_bias` is b of arXiv 2602.17270.
    """

    name: str
    image_channels: int
    size: Space
    latent_channels: int
    encoder: EncoderConfig
    prior: TransformerConfig
    decoder: DecoderConfig
    latent_schedule: LinearSchedule
    image_schedule: CosineSchedule
    loss_factor: float
    decoder_bias: float
    known_frames: int = 0
    """How many first frames of a clip the decoder and a base model may be shown."""

    def __post_init__(self) -> None:
        _require(len(self.size) in (2, 3), "size is (height, width) or (time, height, width)")
        frames = self.size[0] if len(self.size) == 3 else 1
        _require(0 <= self.known_frames < frames, f"known_frames must lie in 0 … {frames - 1}")
        for part, down in (("encoder", self.encoder), ("decoder", self.decoder)):
            _require(
                all(s % d == 0 for s, d in zip(self.size, down.downsampling, strict=True)),
                f"the {part}'s downsampling {down.downsampling} does not divide {self.size}",
            )
        _require(
            all(m % g == 0 for m, g in zip(self.decoder_grid, self.grid, strict=True)),
            f"the decoder's grid {self.decoder_grid} is no multiple of the latent's {self.grid}",
        )

    @property
    def grid(self) -> Space:
        """The latent's grid."""
        return tuple(s // d for s, d in zip(self.size, self.encoder.downsampling, strict=True))

    @property
    def decoder_grid(self) -> Space:
        """The grid of the decoder's transformer."""
        return tuple(s // d for s, d in zip(self.size, self.decoder.downsampling, strict=True))

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (self.image_channels, *self.size)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.latent_channels, *self.grid)

    @property
    def image_context(self) -> tuple[int, ...]:
        """Channels of the decoder's context: the known frames and their mask."""
        return (self.image_channels + 1,) if self.known_frames else ()

    @property
    def latent_context(self) -> tuple[int, ...]:
        """Channels of a base model's context: the known frames' latent and a mark."""
        return (self.latent_channels + 1,) if self.known_frames else ()

    @property
    def lambda_0(self) -> float:
        """λ_z(0), the log-SNR of the encoder's fixed noise."""
        return self.latent_schedule.lambda_max


@dataclass(frozen=True)
class BaseConfig:
    """Stage 2: a two-stage ViT on latents.

    `outer` runs on the latent grid, half of its blocks before and half after `inner`, which runs
    on the grid divided by `stride`. Labels are 0 … classes − 1; `classes` is the null class.
    """

    name: str
    latent_shape: tuple[int, ...]
    outer: TransformerConfig
    inner: TransformerConfig
    stride: Space
    classes: int
    schedule: LinearSchedule
    bias: float
    context: tuple[int, ...] = ()
    """Channels of what it knows on the latent grid, beside z_t."""

    def __post_init__(self) -> None:
        _require(self.classes >= 1, "classes must be at least 1")
        _require(self.outer.depth % 2 == 0, "the outer stage's depth must be even")
        _require(
            all(g % s == 0 for g, s in zip(self.latent_shape[1:], self.stride, strict=True)),
            f"stride {self.stride} does not divide the latent grid {self.latent_shape[1:]}",
        )


@dataclass(frozen=True)
class TextConfig:
    """What a text encoder gives: states of `width` for at most `length` tokens, `pooled` values."""

    width: int
    pooled: int
    length: int

    def __post_init__(self) -> None:
        for name in ("width", "pooled", "length"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
