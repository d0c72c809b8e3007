"""Named sizes: what a recipe trains.

The small ones train on a CPU. Their transformer in the decoder runs on 8×8, twice the latent grid:
at 32×32 a 4×4 grid of tokens is too coarse for the decoder to draw with. Biases are raised by
about 2 ln(512 / side) over the paper's, with the picture (arXiv 2602.17270).
"""

from __future__ import annotations

from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule

_LATENT_SCHEDULE = LinearSchedule(-10.0, 5.0)
_IMAGE_SCHEDULE = CosineSchedule(-10.0, 10.0)
_HALF = (2, 2)


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


def small_base(unified: UnifiedConfig, classes: int) -> BaseConfig:
    """The base model for a small preset: [160, 192] channels, [6, 4] blocks."""
    return BaseConfig(
        name=unified.name,
        latent_shape=unified.latent_shape,
        outer=TransformerConfig(width=160, depth=6, head_dim=32),
        inner=TransformerConfig(width=192, depth=4, head_dim=32),
        stride=_HALF,
        classes=classes,
        schedule=unified.latent_schedule,
        bias=0.0,
    )
