"""What a picture's file claims and its decoder would believe: checked on the bytes themselves.

Pillow skips the checksums of pixels and fills rows that are missing with black; a JPEG may ask
for its pixels to be gone over as often as it has room for scans.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from unified_latents.service.http.problems import invalid

MAX_SCANS = 64
"""A progressive JPEG has about ten."""
MAX_CHUNKS = 2**14
_FIELD = "image"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column and row, and the distance between them, of each pass."""
_PIECE = 2**16


def check(data: bytes) -> None:
    """A Problem where a PNG or a JPEG of a size already checked does not hold what it says."""
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(_JPEG) and data.count(_SCAN) > MAX_SCANS:
        raise invalid(_FIELD, "has too many scans", MAX_SCANS)


def _check_png(data: bytes) -> None:
    header, pixels = b"", []
    for number, (kind, body) in enumerate(_chunks(data)):
        if number == MAX_CHUNKS:
            raise invalid(_FIELD, "has too many chunks", MAX_CHUNKS)
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            pixels.append(body)
    needed = _pixel_bytes(header)
    if not _inflates_to(needed, pixels):
        raise invalid(_FIELD, "does not hold the pixels of its size", needed)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk, up to the last; a Problem for one that is damaged."""
    position, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[position : position + 8].ljust(8, b"\xff"))
        body = data[position + 8 : position + 8 + length]
        end = position + 12 + length
        if end > len(data) or zlib.crc32(kind + body) != int.from_bytes(data[end - 4 : end]):
            raise invalid(_FIELD, "is truncated or damaged")
        yield kind, body
        position = end


def _pixel_bytes(header: bytes) -> int:
    """Bytes of all scanlines, each with its filter's; every pass of an interlaced picture."""
    width, height, depth, colour, interlaced = struct.unpack(">IIBB2xB", header)
    bits = depth * _CHANNELS[colour]
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    return total


def _inflates_to(size: int, parts: Iterable[bytes]) -> bool:
    """Whether there are as many bytes; they are counted, never kept."""
    stream, found = zlib.decompressobj(), 0
    for part in parts:
        rest = part
        while rest and found < size:
            found += len(stream.decompress(rest, _PIECE))
            rest = stream.unconsumed_tail
    return found + len(stream.flush()) >= size
