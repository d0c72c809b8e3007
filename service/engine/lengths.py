"""How long clips are, as a model's card tells: in frames, in latent frames, and in windows."""

from __future__ import annotations

from unified_latents.service.engine.messages import ModelCard


def is_clip(card: ModelCard) -> bool:
    """Whether a model makes clips, [c, t, H, W], and not pictures."""
    return len(card.size) == 3


def stride(card: ModelCard) -> int:
    """Frames of a clip to one of its latent."""
    return card.size[0] // card.latent_shape[1]


def windows(card: ModelCard, latent_frames: int) -> int:
    """How many windows cover a clip: neighbours share half, as in `stepper.tiles`.

    One of a picture.
    """
    if not is_clip(card):
        return 1
    length = card.latent_shape[1]
    return 1 + -(-(latent_frames - length) // (length - length // 2))
