from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from tests.service.corpus.pictures import chunk, idat, ihdr, png
from unified_latents.service.http.containers import MAX_CHUNKS, MAX_SCANS, check
from unified_latents.service.http.problems import Problem

ADAM7 = (
    *("16462646", "77777777", "56565656", "77777777"),
    *("36463646", "77777777", "56565656", "77777777"),
)
"""The pass of each pixel of an 8×8 square (PNG specification, 8.1)."""


def saved(mode: str, size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 200)])
def test_good_files_pass(mode: str, size: tuple[int, int]) -> None:
    check(saved(mode, size))


def scanlines(width: int, height: int, bits: int) -> bytes:
    """Zeros for every pass, counted pixel by pixel."""
    rows: dict[tuple[str, int], int] = {}
    for y in range(height):
        for x in range(width):
            key = (ADAM7[y % 8][x % 8], y)
            rows[key] = rows.get(key, 0) + 1
    return b"".join(b"\x00" * (1 + -(-pixels * bits // 8)) for pixels in rows.values())


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 3), (8, 8), (33, 17)])
@pytest.mark.parametrize(("depth", "colour", "bits"), [(1, 0, 1), (8, 2, 24), (16, 6, 64)])
def test_interlaced_pixels_are_counted_to_the_byte(
    size: tuple[int, int], depth: int, colour: int, bits: int
) -> None:
    header = b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 1)
    pixels = scanlines(*size, bits)
    whole = png(header, idat(zlib.compress(pixels)), (b"IEND", b""))
    Image.open(io.BytesIO(whole)).load()
    check(whole)
    _refused(png(header, idat(zlib.compress(pixels[:-1])), (b"IEND", b"")), "pixels of its size")


def test_pixels_may_be_cut_into_chunks_anywhere() -> None:
    packed = zlib.compress(b"".join(b"\x00" + bytes(range(16)) for _ in range(16)))
    check(png(ihdr(), *[(b"IDAT", packed[i : i + 1]) for i in range(len(packed))], (b"IEND", b"")))


BAD: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda good: good[:45] + bytes([good[45] ^ 1]) + good[46:],
    "no end": lambda good: good[:-12],
    "half an end": lambda good: good[:-3],
    "a length over the file": lambda good: good[:33] + b"\x7f\xff\xff\xff" + good[37:],
}


@pytest.mark.parametrize("name", BAD)
def test_damage_is_seen(name: str) -> None:
    _refused(BAD[name](saved("RGB", (20, 20))), "truncated or damaged")


def test_chunks_and_scans_are_limited() -> None:
    filler = chunk(b"teSt", b"")
    good = saved("L", (4, 4))
    check(good[:33] + filler * (MAX_CHUNKS - 3) + good[33:])
    _refused(good[:33] + filler * (MAX_CHUNKS - 2) + good[33:], "too many chunks")
    check(b"\xff\xd8" + b"\xff\xda" * MAX_SCANS)
    _refused(b"\xff\xd8" + b"\xff\xda" * (MAX_SCANS + 1), "too many scans")


def _refused(data: bytes, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        check(data)
    assert reason in caught.value.detail
    assert [error.field for error in caught.value.errors] == ["image"]
