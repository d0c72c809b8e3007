from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unified_latents.service.engine.messages import Array, Preprocessing
from unified_latents.service.http.images import Fit, Fitted, decode, encode, fit
from unified_latents.service.http.problems import Problem

GRAY = Preprocessing("L", "pad", 10)
COLOUR = Preprocessing("RGB", "crop", 255)
LIMIT = 10_000
RNG = np.random.default_rng(0)


def file(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(height: int, width: int, *channels: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, *channels), np.uint8))


def pixels(fitted: Fitted, channels: int, size: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(fitted.pixels, np.uint8).reshape(channels, *size)


def prepare(image: Image.Image, size: tuple[int, int], how: Fit, training: Preprocessing) -> Fitted:
    return fit(image, size, training, how)


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    body = zlib.compress(b"\x00" * 64)
    idat = b"IDAT" + body
    checked = struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", len(body)) + idat
    return start + checked + struct.pack(">I", zlib.crc32(idat))


def png_with(kind: bytes, data: bytes) -> bytes:
    """A whole picture with one more chunk right after its header."""
    png = file(noise(8, 8))
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(format: str) -> None:
    assert decode(file(noise(20, 30, 3), format), LIMIT).size == (30, 20)


def test_a_header_that_promises_too_much_is_refused_unread() -> None:
    for side in (101, 60_000, 2**31 - 1):
        with pytest.raises(Problem) as caught:
            decode(png_header(side, side), LIMIT)
        assert (caught.value.status, caught.value.code) == (422, "too_many_pixels")
        assert caught.value.errors[0].limit == LIMIT


BROKEN = {
    "nothing": b"",
    "text": b"hello",
    "gif": file(noise(4, 4), "GIF"),
    "tiff": file(noise(4, 4), "TIFF"),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "truncated png": file(noise(40, 40))[:-200],
    "truncated jpeg": file(noise(90, 90, 3), "JPEG")[:300],
    "truncated webp": file(noise(40, 40, 3), "WEBP")[:100],
    "png without pixels": png_header(50, 50),
    "flipped": file(noise(40, 40))[:60] + b"\xff" * 40 + file(noise(40, 40))[100:],
    "zero": png_header(0, 5),
    "animated": file(noise(4, 4, 3), "WEBP", save_all=True, append_images=[noise(4, 4, 3)]),
    "damaged exif": png_with(b"eXIf", b"garbage!garbage!"),
    "short exif": png_with(b"eXIf", b"II"),
    "exif in text": png_with(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nzzzz"),
    "animated png": file(noise(4, 4), save_all=True, append_images=[noise(4, 4)]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_one_whole_picture_is_refused(name: str) -> None:
    with pytest.raises(Problem) as caught:
        decode(BROKEN[name], LIMIT)
    assert caught.value.status == 422
    assert caught.value.errors[0].field == "image"


def test_pad_puts_a_small_picture_in_the_middle_unstretched() -> None:
    image = noise(28, 28)
    fitted = prepare(image, (32, 32), "pad", GRAY)
    plane = pixels(fitted, 1, (32, 32))[0]
    assert np.array_equal(plane[2:30, 2:30], np.asarray(image))
    frame = np.ones((32, 32), bool)
    frame[2:30, 2:30] = False
    assert set(plane[frame]) == {GRAY.background}
    assert fitted.report.padding == (2, 2, 2, 2)
    assert fitted.report.resized == (28, 28)


def test_pad_scales_a_large_picture_down() -> None:
    fitted = prepare(noise(64, 32, 3), (32, 32), "pad", COLOUR)
    assert (fitted.report.resized, fitted.report.padding) == ((32, 16), (0, 8, 0, 8))
    planes = pixels(fitted, 3, (32, 32))
    assert (planes[:, :, :8] == 255).all()


def test_crop_keeps_the_centre_of_the_short_side() -> None:
    row = np.array([0] * 16 + [200] * 32 + [0] * 16, np.uint8)
    striped = Image.fromarray(np.tile(row, (32, 1)))
    fitted = prepare(striped, (8, 8), "crop", GRAY)
    inside = pixels(fitted, 1, (8, 8))[0]
    assert abs(inside.astype(int) - 200).max() < 20
    assert fitted.report.crop == (0, 16, 32, 32)
    assert fitted.report.resized == (8, 8)


def test_crop_enlarges_too() -> None:
    assert prepare(noise(4, 5), (8, 8), "crop", GRAY).report.crop == (0, 0, 4, 4)


def test_an_extreme_shape_needs_no_memory() -> None:
    for how in ("crop", "pad"):
        fitted = prepare(Image.new("L", (60_000, 1), 9), (8, 8), how, GRAY)
        assert len(fitted.pixels) == 64


def test_exact_is_exact() -> None:
    image = noise(8, 8)
    fitted = prepare(image, (8, 8), "exact", GRAY)
    assert np.array_equal(pixels(fitted, 1, (8, 8))[0], np.asarray(image))
    with pytest.raises(Problem) as caught:
        prepare(noise(8, 9), (8, 8), "exact", GRAY)
    assert caught.value.errors[0].limit == "8x8"


def test_orientation_is_applied_and_told() -> None:
    image = Image.new("L", (8, 4), 0)
    image.paste(255, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(file(image, "JPEG", exif=exif, quality=100), LIMIT)
    fitted = prepare(turned, (8, 4), "exact", GRAY)
    plane = pixels(fitted, 1, (8, 4))[0]
    assert fitted.report.oriented
    assert plane[:4].min() > 250
    assert plane[4:].max() < 5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_the_training_background(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.info["transparency"] = 0
    fitted = prepare(decode(file(image), LIMIT), (8, 8), "exact", GRAY)
    assert set(fitted.pixels) == {GRAY.background}
    assert fitted.report.flattened


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x8080, np.uint16))
    fitted = prepare(decode(file(deep), LIMIT), (8, 8), "exact", GRAY)
    assert set(fitted.pixels) == {0x80}


def test_modes_are_converted_and_told() -> None:
    fitted = prepare(Image.new("CMYK", (8, 8)), (8, 8), "exact", COLOUR)
    assert fitted.report.colour == "CMYK → RGB"
    assert len(fitted.pixels) == 3 * 64


@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_hold_the_pixels_and_nothing_else(channels: int) -> None:
    planes = RNG.integers(0, 256, (2, channels, 8, 8), np.uint8)
    array = Array(planes.shape, "uint8", planes.tobytes())
    for format in ("png", "webp"):
        files = encode(array, format)
        assert files == encode(array, format)
        for plane, data in zip(planes, files, strict=True):
            image = Image.open(io.BytesIO(data))
            read = np.asarray(image.convert("L" if channels == 1 else "RGB"))
            assert np.array_equal(read, plane[0] if channels == 1 else plane.transpose(1, 2, 0))
            assert not image.info.keys() & {"date", "Software", "exif"}
    assert Image.open(io.BytesIO(encode(array, "jpeg")[0])).format == "JPEG"
