"""Tiny recipes for the clips of `clips_folder`."""

from __future__ import annotations

from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.manifest import Defaults
from unified_latents.models.schedule import CosineSchedule, LinearSchedule
from unified_latents.training.recipes import EncoderWarmup, Stage1Recipe, Stage2Recipe, Training

FEW = Defaults(base_steps=3, decode_steps=3)
_TRANSFORMER = TransformerConfig(width=16, depth=1, head_dim=8)


def tiny_clips() -> UnifiedConfig:
    """1×4×16×16 clips in 4×2×4×4 latents; one frame may be known."""
    return UnifiedConfig(
        name="tiny-clips",
        image_channels=1,
        size=(4, 16, 16),
        latent_channels=4,
        encoder=EncoderConfig((8, 12), (1, 1), (1, 2, 2), ((2, 2, 2),)),
        prior=_TRANSFORMER,
        decoder=DecoderConfig((8,), 1, (1, 4, 4), ((2, 1, 1),), _TRANSFORMER),
        latent_schedule=LinearSchedule(-10.0, 5.0),
        image_schedule=CosineSchedule(-10.0, 10.0),
        loss_factor=5.0,
        decoder_bias=2.0,
        known_frames=1,
    )


def stage1_of_clips(training: Training) -> Stage1Recipe:
    return Stage1Recipe("tiny-clips", tiny_clips(), training, EncoderWarmup(2, 4), FEW)


def tiny_clips_base() -> BaseConfig:
    """Of one class."""
    unified = tiny_clips()
    return BaseConfig(
        name="tiny-clips",
        latent_shape=unified.latent_shape,
        outer=TransformerConfig(width=16, depth=2, head_dim=8),
        inner=_TRANSFORMER,
        stride=(1, 2, 2),
        classes=1,
        schedule=unified.latent_schedule,
        bias=0.0,
        context=unified.latent_context,
    )


def stage2_of_clips(training: Training) -> Stage2Recipe:
    return Stage2Recipe("tiny-clips", tiny_clips_base(), training, defaults=FEW)
