"""Pictures in and out: bytes of PNG, JPEG or WebP to the model's own pixels, and back.

The header's dimensions are checked before a pixel is decoded. The steps that bring a picture to
the model's size are those of training, and the answer says which were taken.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL import __version__ as pillow_version
from pydantic import BaseModel

from unified_latents.service.engine.messages import Array, Preprocessing
from unified_latents.service.http import containers
from unified_latents.service.http.negotiation import Format
from unified_latents.service.http.problems import FieldError, Problem, invalid

Fit = Literal["crop", "pad", "exact"]
FORMATS = ("PNG", "JPEG", "WEBP")
_FIELD = "image"
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError),
    *(struct.error, LookupError, TypeError, UserWarning, zlib.error),
)
"""What Pillow raises for broken files, by format and block."""
_DOUBTS = ("Corrupt EXIF data", "Invalid APNG", "Truncated File Read")
_ORIENTATION = 0x0112
_SAVE: dict[str, dict[str, object]] = {
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


class FitReport(BaseModel):
    """What was done to a picture to make it the model's size; sizes are [height, width]."""

    mode: Fit
    source: tuple[int, int]
    oriented: bool
    """Turned or mirrored as its EXIF orientation says."""
    flattened: bool
    """Transparency was laid over the training background."""
    colour: str
    """Its own colour mode → the model's."""
    crop: tuple[int, int, int, int] | None
    """[top, left, height, width] of what was kept, in source pixels, rounded."""
    resized: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Rows and columns added: [top, left, bottom, right]."""


class Fitted(BaseModel):
    """A picture as the model wants it."""

    pixels: bytes
    report: FitReport


@functools.cache
def codec() -> str:
    """The libraries that read and write pictures, by version: a file's bytes are theirs too."""
    parts = {
        "zlib": features.version_feature("zlib_ng") or features.version_codec("zlib"),
        "jpeg": features.version_feature("libjpeg_turbo") or features.version_codec("jpg"),
        "webp": features.version_module("webp"),
    }
    return ", ".join([f"pillow {pillow_version}", *(f"{n} {v}" for n, v in parts.items())])


def refuse_damage() -> None:
    """Pillow's doubts become errors, for the whole process: filters cannot change per thread."""
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    for message in _DOUBTS:
        warnings.filterwarnings("error", message, UserWarning)


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """A fully decoded picture; a Problem for anything that is not one still picture.

    Doubtful EXIF is refused where `refuse_damage` was called.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_header(image, max_pixels)
        containers.check(data)
        image.load()
        ImageOps.exif_transpose(image)  # may be damaged where the picture itself is whole
    except UnidentifiedImageError as error:
        raise invalid(_FIELD, "is not a PNG, JPEG or WebP picture", ", ".join(FORMATS)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(max_pixels) from error
    except _DAMAGE as error:
        raise invalid(_FIELD, "is truncated or damaged") from error
    return image


def _check_header(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise too_many_pixels(max_pixels)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a camera's JPEG and preview
        raise invalid(_FIELD, "is animated", 1)


def too_many_pixels(max_pixels: int) -> Problem:
    """Before decoding: what the header promises is too much."""
    message = "has too many pixels"
    error = FieldError(field=_FIELD, message=message, limit=max_pixels)
    return Problem(422, "too_many_pixels", f"{_FIELD}: {message}", [error])


def fit(image: Image.Image, size: tuple[int, int], training: Preprocessing, how: Fit) -> Fitted:
    """The picture at `size` = (H, W), as `training` prepared its own."""
    oriented = image.getexif().get(_ORIENTATION, 1) != 1
    upright = ImageOps.exif_transpose(image)
    flattened = upright.has_transparency_data
    flat = _flatten(_eight_bits(upright), training.background).convert(training.mode)
    source = (flat.height, flat.width)
    crop, resized = None, source
    if how == "exact" and source != size:
        raise invalid(_FIELD, "does not have the model's size", f"{size[0]}x{size[1]}")
    if how == "crop":
        crop, resized = _centre(source, size), size
        flat = ImageOps.fit(flat, (size[1], size[0]), Image.Resampling.LANCZOS)
    elif how == "pad":
        flat = _shrink(flat, size)
        resized = (flat.height, flat.width)
    top, left = (size[0] - resized[0]) // 2, (size[1] - resized[1]) // 2
    report = FitReport(
        mode=how,
        source=source,
        oriented=oriented,
        flattened=flattened,
        colour=f"{image.mode} → {training.mode}",
        crop=crop,
        resized=resized,
        padding=(top, left, size[0] - resized[0] - top, size[1] - resized[1] - left),
    )
    return Fitted(pixels=_planes(_pad(flat, size, training.background)), report=report)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit gray scaled to eight; the library's own conversion would clip it."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64) / 257
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _flatten(image: Image.Image, background: int) -> Image.Image:
    if not image.has_transparency_data:
        return image
    canvas = Image.new("RGBA", image.size, (background, background, background, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled down, never up, until it fits inside `size`."""
    scale = min(size[1] / image.width, size[0] / image.height, 1.0)
    if scale == 1.0:
        return image
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _pad(image: Image.Image, size: tuple[int, int], background: int) -> Image.Image:
    if (image.height, image.width) == size:
        return image
    colour = background if image.mode == "L" else (background,) * 3
    canvas = Image.new(image.mode, (size[1], size[0]), colour)
    canvas.paste(image, ((size[1] - image.width) // 2, (size[0] - image.height) // 2))
    return canvas


def _centre(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    scale = min(source[0] / size[0], source[1] / size[1])
    height, width = round(size[0] * scale), round(size[1] * scale)
    return ((source[0] - height) // 2, (source[1] - width) // 2, height, width)


def _planes(image: Image.Image) -> bytes:
    """[c, H, W] bytes."""
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels).tobytes()


def encode(images: Array, format: Format) -> list[bytes]:
    """Files of uint8 [n, c, H, W]; equal pixels give equal bytes: nothing else is in them."""
    batch = np.frombuffer(images.data, np.uint8).reshape(images.shape)
    files = []
    for planes in batch:
        pixels = planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
        stream = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(stream, **_SAVE[format])  # type: ignore[arg-type]
        files.append(stream.getvalue())
    return files
