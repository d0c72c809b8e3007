"""Clips in and out: frames of mp4, WebM, GIF and animated PNG or WebP, and files of frames.

A clip is bounded before it is decoded where its header says enough, and while it is decoded where
it does not: a file that promises ten frames and holds a million ends at the first one too many.
The container is known by its first bytes and only that demuxer is tried, over bytes in memory: no
file can name another one.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from unified_latents.service.engine.messages import Array
from unified_latents.service.http import images
from unified_latents.service.http.negotiation import Format
from unified_latents.service.http.problems import FieldError, Problem, invalid

Film = Literal["mp4", "webm", "gif", "apng"]
RATE = 8
"""Frames a second of what we write."""
_STILL = ("PNG", "WEBP", "GIF", "JPEG")
_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "mp4": ("libx264", {"crf": "18", "preset": "medium", "threads": "1"}),
    "webm": ("libvpx-vp9", {"crf": "24", "b": "0", "threads": "1"}),
}
_DAMAGE = (FFmpegError, OSError, ValueError, SyntaxError, EOFError, MemoryError, LookupError)


def codec(format: Format) -> str:
    """The libraries that read and write files of a format, by version: their bytes are theirs."""
    return _film_codec() if format in _CODECS else images.codec()


@functools.cache
def _film_codec() -> str:
    libraries = sorted(av.library_versions.items())
    versions = (f"{name} {'.'.join(map(str, version))}" for name, version in libraries)
    return ", ".join([f"av {av.__version__}", *versions])


def read(files: Sequence[bytes], most: int, max_pixels: int, field: str) -> list[Image.Image]:
    """All that `each` gives."""
    return list(each(files, most, max_pixels, field))


def each(files: Sequence[bytes], most: int, max_pixels: int, field: str) -> Iterator[Image.Image]:
    """The frames of several files, one after the other; a Problem for the first fault.

    `most` bounds the frames of all files together, `max_pixels` the pixels of each frame.
    """
    first, count = None, 0
    for i, data in enumerate(files):
        name = f"{field}[{i}]"
        for frame in _frames(data, max_pixels, name):
            first, count = first or frame.size, count + 1
            if count > most:
                raise invalid(field, "has too many frames", most)
            if frame.size != first:
                raise invalid(name, "has another size than the first", _size(first))
            yield frame


def difference(original: bytes, own: bytes, field: str) -> float:
    """The largest of two files' pixels, in steps of 255; a Problem where their shapes differ.

    The original is read frame by frame, and no further than our own file goes.
    """
    mine = [_rgb(frame) for frame in _frames(own, sys.maxsize, field)]
    height, width, _ = mine[0].shape
    largest = count = 0
    for frame in each([original], len(mine), height * width, field):
        if frame.size != (width, height):
            raise invalid(field, "has another size", f"{height}x{width}")
        largest = max(largest, int(np.abs(_rgb(frame) - mine[count]).max()))
        count += 1
    if count < len(mine):
        raise invalid(field, "has too few frames", len(mine))
    return float(largest)


def _rgb(frame: Image.Image) -> NDArray[np.int16]:
    return np.asarray(frame.convert("RGB"), np.int16)


def _frames(data: bytes, max_pixels: int, field: str) -> Iterator[Image.Image]:
    try:
        if (demuxer := _demuxer(data)) is not None:
            yield from _film(data, demuxer, max_pixels, field)
        else:
            yield from _animation(data, max_pixels, field)
    except _DAMAGE as error:
        raise invalid(field, "is truncated, damaged, or of no known format", _KNOWN) from error


_KNOWN = "mp4, webm, gif, png, webp, jpeg"


def _demuxer(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return "mp4"
    return "matroska" if data.startswith(b"\x1a\x45\xdf\xa3") else None


def _film(data: bytes, demuxer: str, max_pixels: int, field: str) -> Iterator[Image.Image]:
    with av.open(io.BytesIO(data), "r", format=demuxer) as container:
        if not container.streams.video:
            raise invalid(field, "holds no pictures")
        stream = container.streams.video[0]
        stream.thread_count = 1
        _bound(stream.width, stream.height, max_pixels, field)
        for frame in container.decode(stream):
            _bound(frame.width, frame.height, max_pixels, field)
            yield frame.to_image()


def _animation(data: bytes, max_pixels: int, field: str) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(data), formats=_STILL) as image:
        _bound(image.width, image.height, max_pixels, field)
        for frame in ImageSequence.Iterator(image):
            yield frame.copy()


def _bound(width: int, height: int, max_pixels: int, field: str) -> None:
    if width * height > max_pixels:
        raise too_large(field, "has too many pixels a frame", max_pixels)


def too_large(field: str, message: str, limit: int) -> Problem:
    """A 422 about the pixels of a file."""
    fault = FieldError(field=field, message=message, limit=limit)
    return Problem(422, "too_many_pixels", f"{field}: {message}", [fault])


def _size(size: tuple[int, int]) -> str:
    width, height = size
    return f"{height}x{width}"


def stack(frames: Sequence[images.Fitted], channels: int, size: tuple[int, int]) -> Array:
    """uint8 [c, t, H, W] of fitted frames."""
    planes = [np.frombuffer(frame.pixels, np.uint8).reshape(channels, *size) for frame in frames]
    clip = np.stack(planes, 1)
    return Array(clip.shape, "uint8", clip.tobytes())


def save(samples: Array, format: Format) -> list[bytes]:
    """Files of uint8 pictures [n, c, H, W], or of clips [n, c, t, H, W]."""
    if len(samples.shape) == 5:
        return write(samples, cast(Film, format))
    return images.encode(samples, format)


def write(clips: Array, film: Film) -> list[bytes]:
    """Files of uint8 [n, c, t, H, W]; equal pixels give equal bytes on one `codec`.

    GIF and animated PNG lose nothing of a gray clip; mp4 and WebM do.
    """
    batch = np.frombuffer(clips.data, np.uint8).reshape(clips.shape)
    save = _encode if film in _CODECS else _animate
    return [save([_image(frame) for frame in clip.swapaxes(0, 1)], film) for clip in batch]


def _image(planes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Image.Image:
    return Image.fromarray(planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0))


def _animate(frames: list[Image.Image], film: Film) -> bytes:
    file, first = io.BytesIO(), frames[0]
    form = "GIF" if film == "gif" else "PNG"
    first.save(file, form, save_all=True, append_images=frames[1:], duration=1000 // RATE, loop=0)
    return file.getvalue()


def _encode(frames: list[Image.Image], film: Film) -> bytes:
    name, options = _CODECS[film]
    file = io.BytesIO()
    with av.open(file, "w", format=film, options={"fflags": "+bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(name, rate=Fraction(RATE), options=options))
        stream.width, stream.height = _even(frames[0])
        stream.pix_fmt = "yuv420p"
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for frame in frames:
            container.mux(stream.encode(VideoFrame.from_image(_padded(frame))))
        container.mux(stream.encode())
    return file.getvalue()


def _even(image: Image.Image) -> tuple[int, int]:
    """Chroma is halved, so both sides must be even."""
    return image.width + image.width % 2, image.height + image.height % 2


def _padded(image: Image.Image) -> Image.Image:
    if _even(image) == image.size:
        return image.convert("RGB")
    canvas = Image.new("RGB", _even(image))
    canvas.paste(image)
    return canvas
