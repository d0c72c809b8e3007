"""Named sizes: what a recipe trains.

The small ones train on a CPU. Their transformer in the decoder runs on 8×8, twice the latent grid:
at 32×32 a 4×4 grid of tokens is too coarse for the decoder to draw with. Biases are raised by
about 2 ln(512 / side) over the paper's, with the picture (arXiv 2602.17270).

The paper's own sizes follow them. It states the widths and depths, but neither the schedules nor
the biases: the middle of the range that was found to work, moved with the side [C].
"""

from __future__ import annotations

import math
from dataclasses import replace

from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TextConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule

_LATENT_SCHEDULE = LinearSchedule(-10.0, 5.0)
_IMAGE_SCHEDULE = CosineSchedule(-10.0, 10.0)
_HALF = (2, 2)
_HALF_3D = (2, 2, 2)
_WIDE = TransformerConfig(width=1024, depth=8)


def small_32(image_channels: int, name: str = "small-32") -> UnifiedConfig:
    """32×32 pictures in 4×4×16 latents: 0.25 + 1.26 + 1.07 million parameters."""
    return UnifiedConfig(
        name=name,
        image_channels=image_channels,
        size=(32, 32),
        latent_channels=16,
        encoder=EncoderConfig((24, 48, 48), (2, 2, 3), _HALF, (_HALF, _HALF)),
        prior=TransformerConfig(width=128, depth=4, head_dim=32),
        decoder=DecoderConfig(
            channels=(32,),
            blocks=2,
            patch=_HALF,
            strides=(_HALF,),
            transformer=TransformerConfig(width=128, depth=3, head_dim=32),
        ),
        latent_schedule=_LATENT_SCHEDULE,
        image_schedule=_IMAGE_SCHEDULE,
        loss_factor=5.0,
        decoder_bias=2.0,
    )


def small_64(image_channels: int, name: str = "small-64") -> UnifiedConfig:
    """64×64 pictures in 8×8×16 latents."""
    return UnifiedConfig(
        name=name,
        image_channels=image_channels,
        size=(64, 64),
        latent_channels=16,
        encoder=EncoderConfig((32, 64, 64), (2, 2, 3), _HALF, (_HALF, _HALF)),
        prior=TransformerConfig(width=192, depth=6, head_dim=32),
        decoder=DecoderConfig(
            channels=(32, 64),
            blocks=2,
            patch=_HALF,
            strides=(_HALF, _HALF),
            transformer=TransformerConfig(width=192, depth=4, head_dim=32),
        ),
        latent_schedule=_LATENT_SCHEDULE,
        image_schedule=_IMAGE_SCHEDULE,
        loss_factor=5.0,
        decoder_bias=1.0,
    )


def fashion() -> UnifiedConfig:
    """Fashion-MNIST padded to 32×32: the demo model's stage 1."""
    return small_32(image_channels=1, name="fashion")


def sprites(image_channels: int = 1) -> UnifiedConfig:
    """16 frames of 32×32 in 4×4×4×16 latents, downsampled 4×8×8 as the paper's; five are known.

    The convolutions of the decoder see every frame, its transformer a quarter of them on 8×8.
    """
    return UnifiedConfig(
        name="sprites",
        image_channels=image_channels,
        size=(16, 32, 32),
        latent_channels=16,
        encoder=EncoderConfig((32, 64), (1, 2), (2, 4, 4), (_HALF_3D,)),
        prior=TransformerConfig(width=128, depth=3, head_dim=32),
        decoder=DecoderConfig(
            channels=(32,),
            blocks=1,
            patch=(1, 4, 4),
            strides=((4, 1, 1),),
            transformer=TransformerConfig(width=128, depth=3, head_dim=32),
        ),
        latent_schedule=_LATENT_SCHEDULE,
        image_schedule=_IMAGE_SCHEDULE,
        loss_factor=6.0,
        decoder_bias=2.0,
        known_frames=5,
    )


def small_base(unified: UnifiedConfig, classes: int) -> BaseConfig:
    """The base model for a small preset: [160, 192] channels, [6, 4] blocks."""
    return BaseConfig(
        name=unified.name,
        latent_shape=unified.latent_shape,
        outer=TransformerConfig(width=160, depth=6, head_dim=32),
        inner=TransformerConfig(width=192, depth=4, head_dim=32),
        stride=_merged(unified),
        classes=classes,
        schedule=unified.latent_schedule,
        bias=0.0,
        context=unified.latent_context,
    )


def sprites_base(unified: UnifiedConfig, classes: int) -> BaseConfig:
    """The base model for `sprites`: [128, 192] channels, [4, 4] blocks."""
    outer = TransformerConfig(width=128, depth=4, head_dim=32)
    return replace(small_base(unified, classes), outer=outer)


def _merged(unified: UnifiedConfig) -> tuple[int, ...]:
    """Neighbouring cells are merged in space, never in time."""
    return (*[1] * (len(unified.grid) - 2), *_HALF)


def _paper_schedule(side: int) -> CosineSchedule:
    """Shifted from 64 pixels, where the cosine is at home (Hoogeboom et al., 2023)."""
    return CosineSchedule(-15.0, 15.0, shift=2 * math.log(64 / side))


def _paper_bias(side: int) -> float:
    return -1.0 + 2 * math.log(512 / side)


def imagenet_512() -> UnifiedConfig:
    """The paper's stage 1: 512×512 pictures in 32×32×32 latents."""
    return UnifiedConfig(
        name="imagenet-512",
        image_channels=3,
        size=(512, 512),
        latent_channels=32,
        encoder=EncoderConfig((128, 256, 512, 512), (2, 2, 2, 3), _HALF, (_HALF, _HALF, _HALF)),
        prior=_WIDE,
        decoder=DecoderConfig(
            channels=(128, 256, 512),
            blocks=2,
            patch=_HALF,
            strides=(_HALF, _HALF, _HALF),
            transformer=replace(_WIDE, dropout=0.1),
        ),
        latent_schedule=_LATENT_SCHEDULE,
        image_schedule=_paper_schedule(512),
        loss_factor=1.5,
        decoder_bias=_paper_bias(512),
    )


def kinetics_600() -> UnifiedConfig:
    """16 frames of 128×128 in 4×16×16 latents; the paper gives the sizes of the grids alone."""
    return UnifiedConfig(
        name="kinetics-600",
        image_channels=3,
        size=(16, 128, 128),
        latent_channels=32,
        encoder=EncoderConfig((128, 256, 512), (2, 2, 3), (1, 2, 2), (_HALF_3D, _HALF_3D)),
        prior=_WIDE,
        decoder=DecoderConfig(
            channels=(128, 256),
            blocks=2,
            patch=(1, 2, 2),
            strides=(_HALF_3D, _HALF_3D),
            transformer=replace(_WIDE, dropout=0.1),
        ),
        latent_schedule=_LATENT_SCHEDULE,
        image_schedule=_paper_schedule(128),
        loss_factor=1.5,
        decoder_bias=_paper_bias(128),
        known_frames=5,
    )


def paper_base(unified: UnifiedConfig, classes: int) -> BaseConfig:
    """The paper's base model: [512, 1024] channels, [6, 16] blocks, dropout 0.1."""
    return _two_stage(unified, classes, "", (512, 1024), (6, 16), dropout=0.1)


def paper_base_small(unified: UnifiedConfig, classes: int) -> BaseConfig:
    """A smaller one of ours, for the comparisons of capacity: [384, 768] × [4, 10]."""
    return _two_stage(unified, classes, "-small", (384, 768), (4, 10))


CAPTIONS = TextConfig(width=384, pooled=384, length=64)
"""The states of a small sentence encoder (MiniLM), for at most 64 tokens."""


def text_bases(unified: UnifiedConfig) -> dict[int, BaseConfig]:
    """GFLOP a pass → a text-to-image base model of about that; the paper has 100, 300 and 970.

    It gives the budgets, not the widths and depths [C]: those here follow its class-conditional
    base. Counted on 32×32×32 latents with all of `CAPTIONS`.
    """
    sizes = {
        100: ((512, 1024), (6, 6)),
        300: ((768, 1536), (6, 12)),
        970: ((1024, 2048), (8, 26)),
    }
    return {
        gflop: _two_stage(unified, 1, f"-text-{gflop}", widths, depths)
        for gflop, (widths, depths) in sizes.items()
    }


def _two_stage(
    unified: UnifiedConfig,
    classes: int,
    suffix: str,
    widths: tuple[int, int],
    depths: tuple[int, int],
    dropout: float = 0.0,
) -> BaseConfig:
    outer, inner = (
        TransformerConfig(width, depth, dropout=dropout)
        for width, depth in zip(widths, depths, strict=True)
    )
    return BaseConfig(
        name=unified.name + suffix,
        latent_shape=unified.latent_shape,
        outer=outer,
        inner=inner,
        stride=_merged(unified),
        classes=classes,
        schedule=unified.latent_schedule,
        bias=0.0,
        context=unified.latent_context,
    )
