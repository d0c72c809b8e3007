"""Clips as a model takes them: what is known of one, and what is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from PIL.Image import Image

from unified_latents.service.engine.frames import MAX_FRAME
from unified_latents.service.engine.lengths import is_clip, stride
from unified_latents.service.engine.messages import Array, ModelCard
from unified_latents.service.http import bodies, clips, core, images
from unified_latents.service.http.images import Fit, FitReport
from unified_latents.service.http.negotiation import FILMS, PICTURES, Format
from unified_latents.service.http.problems import Problem, invalid
from unified_latents.service.settings import Settings

_STATE = 8
"""Bytes that the engine's snapshot of a clip holds of each value: x_t and x̂, in fp32."""


def most(card: ModelCard, settings: Settings) -> int:
    """Frames of longer clips in one request: what the operator allows, and a message can hold."""
    values = card.channels * card.size[-2] * card.size[-1]
    return min(settings.max_frames, MAX_FRAME // 2 // (_STATE * values))


def formats(card: ModelCard, wanted: Format | None) -> tuple[Format, ...]:
    """The files that a model's answers can be, the default first; a 422 for another one."""
    known = FILMS if is_clip(card) else PICTURES
    if wanted not in (None, "latents", *known):
        raise invalid("format", "is none of this model's", ", ".join((*known, "latents")))
    return known


async def known(
    service: core.Service, files: Sequence[str] | None, card: ModelCard
) -> Array | None:
    """The known first frames, uint8 [c, k, H, W], of base64 files of pictures or clips.

    They are fitted as in training. A 422 where there are not exactly as many as the model knows.
    """
    if files is None:
        return None
    if not card.known_frames:
        raise none_are_shown()
    data = [bodies.from_base64(f"frames[{i}]", text) for i, text in enumerate(files)]
    return await of_files(service, data, card)


async def of_files(
    service: core.Service, files: Sequence[bytes], card: ModelCard, field: str = "frames"
) -> Array | None:
    """`known`, of the files' bytes; None of no files."""
    if not files:
        return None
    if not card.known_frames:
        raise none_are_shown(field)
    return await service.in_thread(lambda: shown(files, card, service.settings.max_pixels, field))


def none_are_shown(field: str = "frames") -> Problem:
    """A 422 for frames where the model knows none."""
    return invalid(field, "this model is shown none", 0)


def shown(files: Sequence[bytes], card: ModelCard, max_pixels: int, field: str = "frames") -> Array:
    """`known`, of the files themselves."""
    count = card.known_frames
    clip, _ = _stacked(clips.each(files, count, max_pixels, field), card, card.preprocessing.fit)
    if clip.shape[1] != count:
        raise invalid(field, f"has {clip.shape[1]} frames where {count} are needed", count)
    return clip


def fitted(data: bytes, card: ModelCard, how: Fit, settings: Settings) -> tuple[Array, FitReport]:
    """A picture, or a clip, at the model's size."""
    if is_clip(card):
        return _whole(data, card, how, settings)
    size = (card.size[0], card.size[1])
    picture = images.fit(images.decode(data, settings.max_pixels), size, card.preprocessing, how)
    return Array((card.channels, *size), "uint8", picture.pixels), picture.report


def _whole(data: bytes, card: ModelCard, how: Fit, settings: Settings) -> tuple[Array, FitReport]:
    """A clip's file as the encoder takes it, uint8 [c, t, H, W], and what was done to it."""
    own, step = card.size[0], stride(card)
    limit = max(own, most(card, settings))
    found = clips.each([data], limit, settings.max_pixels, "image")
    clip, report = _stacked(_bounded(found, own * settings.max_pixels), card, how)
    frames = clip.shape[1]
    if frames < own or frames % step:
        longer = f", or more in steps of {step}" if limit > own else ""
        raise invalid("image", f"has {frames} frames where {own} are needed{longer}", own)
    return clip, report


def _bounded(frames: Iterable[Image], most: int) -> Iterator[Image]:
    """Longer clips have no more pixels in all than those of the model's own length may have."""
    pixels = 0
    for frame in frames:
        pixels += frame.width * frame.height
        if pixels > most:
            raise clips.too_large("image", "has too many pixels in all its frames", most)
        yield frame


def _stacked(frames: Iterable[Image], card: ModelCard, how: Fit) -> tuple[Array, FitReport]:
    """All frames as one clip, and what was done to the first; one at a time is held whole."""
    size = (card.size[-2], card.size[-1])
    each = [images.fit(frame, size, card.preprocessing, how) for frame in frames]
    return clips.stack(each, card.channels, size), each[0].report
