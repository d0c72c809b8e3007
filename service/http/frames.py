"""Clips of a model's own length and size: what is known of one, and what is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from unified_latents.service.engine.messages import Array, ModelCard
from unified_latents.service.http import bodies, clips, core, images
from unified_latents.service.http.images import Fit, FitReport
from unified_latents.service.http.negotiation import FILMS, PICTURES, Format
from unified_latents.service.http.problems import Problem, invalid


def is_clip(card: ModelCard) -> bool:
    """Whether a model makes clips, [c, t, H, W], and not pictures."""
    return len(card.size) == 3


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


async def of_files(service: core.Service, files: Sequence[bytes], card: ModelCard) -> Array | None:
    """`known`, of the files' bytes; None of no files."""
    if not files:
        return None
    if not card.known_frames:
        raise none_are_shown()
    return await service.in_thread(lambda: shown(files, card, service.settings.max_pixels))


def none_are_shown() -> Problem:
    """A 422 for frames where the model knows none."""
    return invalid("frames", "this model is shown none", 0)


def shown(files: Sequence[bytes], card: ModelCard, max_pixels: int) -> Array:
    """`known`, of the files themselves."""
    return _all_fitted(
        files, card, card.known_frames, card.preprocessing.fit, max_pixels, "frames"
    )[0]


def whole(data: bytes, card: ModelCard, how: Fit, max_pixels: int) -> tuple[Array, FitReport]:
    """A clip's file as the encoder takes it, uint8 [c, t, H, W], and what was done to it."""
    return _all_fitted([data], card, card.size[0], how, max_pixels, "image")


def fitted(data: bytes, card: ModelCard, how: Fit, max_pixels: int) -> tuple[Array, FitReport]:
    """A picture, or a clip, at the model's size."""
    if is_clip(card):
        return whole(data, card, how, max_pixels)
    size = (card.size[0], card.size[1])
    picture = images.fit(images.decode(data, max_pixels), size, card.preprocessing, how)
    return Array((card.channels, *size), "uint8", picture.pixels), picture.report


def _all_fitted(
    files: Sequence[bytes], card: ModelCard, count: int, how: Fit, max_pixels: int, field: str
) -> tuple[Array, FitReport]:
    """All frames as one clip, and what was done to the first."""
    size = (card.size[-2], card.size[-1])
    found = clips.read(files, count, max_pixels, field)
    if len(found) != count:
        raise invalid(field, f"has {len(found)} frames where {count} are needed", count)
    each = [images.fit(frame, size, card.preprocessing, how) for frame in found]
    return clips.stack(each, card.channels, size), each[0].report
