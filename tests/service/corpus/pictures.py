"""Pictures that lie: about their size, their chunks, their lengths, their frames."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.service.corpus.wire import Case, request

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ROWS = zlib.compress(b"".join(b"\x00" + bytes(16) for _ in range(16)))
_END = (b"IEND", b"")


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A PNG chunk, with its right checksum or another one."""
    summed = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", summed)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A file of well-formed chunks."""
    return _SIGNATURE + b"".join(chunk(*each) for each in chunks)


def ihdr(
    width: int = 16, height: int = 16, depth: int = 8, colour: int = 0, method: int = 0
) -> tuple[bytes, bytes]:
    """The header chunk; a gray picture of 16×16 unless told otherwise."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, method, 0, 0)


def idat(data: bytes = _ROWS) -> tuple[bytes, bytes]:
    """The pixel chunk."""
    return b"IDAT", data


def saved(format: str, mode: str = "L", side: int = 16, **options: object) -> bytes:
    """A good file of a gradient."""
    stream = io.BytesIO()
    picture = Image.linear_gradient("L").resize((side, side)).convert(mode)
    picture.save(stream, format, **options)
    return stream.getvalue()


def bomb(megabytes: int) -> bytes:
    """Zeros that a thousandth of their length inflates to."""
    return zlib.compress(bytes(megabytes * 2**20), 9)


def cases() -> Iterator[tuple[str, Case]]:
    """Name and request of each."""
    for media, files in (
        ("image/png", {**_png_sizes(), **_png_chunks(), **_png_bombs()}),
        ("image/jpeg", _jpegs()),
        ("image/webp", _webps()),
    ):
        for name, data in files.items():
            yield name, request("/encode?model=tiny", media, data, 422, "image")


def _png_sizes() -> dict[str, bytes]:
    sizes = {
        "10^5 x 10^5": (10**5, 10**5),
        "10^9 pixels in a column": (1, 10**9),
        "2^31 - 1 squared": (2**31 - 1, 2**31 - 1),
        "2^32 - 1 squared": (2**32 - 1, 2**32 - 1),
        "one row over the limit": (6001, 6000),
        "no width": (0, 16),
        "no height": (16, 0),
        "rows that are not there": (16, 5000),
    }
    return {f"png {name}": png(ihdr(*size), idat(), _END) for name, size in sizes.items()}


def _png_chunks() -> dict[str, bytes]:
    good = saved("PNG", "RGB", 64)
    cuts = {"in the signature": 5, "in the header": 20, "in a length": 35, "in the pixels": 60}
    bad_crc = _SIGNATURE + chunk(*ihdr(), crc=1) + chunk(*idat()) + chunk(*_END)
    long = struct.pack(">I", 2**31 - 1) + b"IDAT" + _ROWS
    return {
        **{f"png cut {name}": good[:length] for name, length in cuts.items()},
        "png wrong header checksum": bad_crc,
        "png wrong pixel checksum": _SIGNATURE + chunk(*ihdr()) + chunk(*idat(), crc=7),
        "png chunk longer than the file": _SIGNATURE + chunk(*ihdr()) + long,
        "png short header": png((b"IHDR", b"\x00" * 5), idat(), _END),
        "png without header": png(idat(), _END),
        "png without pixels": png(ihdr(), _END),
        "png palette without PLTE": png(ihdr(colour=3), idat(b"\x00" * 9), _END),
        "png depth 3": png(ihdr(depth=3), idat(), _END),
        "png colour type 9": png(ihdr(colour=9), idat(), _END),
        "png unknown compression": png(ihdr(method=8), idat(b"\xff" * 64), _END),
        "png pixels that are no zlib": png(ihdr(), idat(b"\xff" * 64), _END),
        "png empty chunks forever": _SIGNATURE + chunk(*ihdr()) + chunk(b"IDAT", b"") * 10**5,
        "png followed by nothing": _SIGNATURE,
    }


def _png_bombs() -> dict[str, bytes]:
    text = b"k\x00\x00" + bomb(8)
    inter = b"k\x00\x01\x00\x00\x00" + bomb(8)
    thin = (b"zTXt", b"k\x00\x00" + bomb(1)[:-1])
    frames = struct.pack(">II", 2**31 - 1, 0)
    control = struct.pack(">IIIIIHHBB", 0, 16, 16, 0, 0, 1, 1, 0, 0)
    return {
        "png zTXt bomb": png(ihdr(), (b"zTXt", text), idat(), _END),
        "png iTXt bomb": png(ihdr(), (b"iTXt", inter), idat(), _END),
        "png iCCP bomb": png(ihdr(), (b"iCCP", text), idat(), _END),
        "png a hundred zTXt bombs": png(ihdr(), *[thin] * 100, idat(), _END),
        "png pixel bomb": png(ihdr(30_000, 30_000), idat(bomb(64)), _END),
        "apng of 2^31 - 1 frames": png(ihdr(), (b"acTL", frames), (b"fcTL", control), idat(), _END),
    }


def _jpegs() -> dict[str, bytes]:
    good = saved("JPEG", "RGB", 64)
    frame = good.index(b"\xff\xc0")
    scan = good.index(b"\xff\xda")
    progressive = saved("JPEG", "RGB", 64, progressive=True)
    first = progressive.index(b"\xff\xda")
    again = progressive[first : progressive.index(b"\xff\xda", first + 2)]
    huge = bytearray(good)
    huge[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    flat = bytearray(good)
    flat[frame + 5 : frame + 9] = b"\x00\x00\x00\x10"
    ink = bytearray(saved("JPEG", "CMYK", 64))
    ink[ink.index(b"\xff\xc0") + 9] = 200
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08" + b"\xff" * 40
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return {
        "jpeg 65535 x 65535": bytes(huge),
        "jpeg no height": bytes(flat),
        "jpeg cmyk of 200 components": bytes(ink),
        "jpeg cut in the tables": good[:30],
        "jpeg cut before the scan": good[:scan],
        "jpeg cut in the scan": good[: scan + 40],
        "jpeg without tables": good[:2] + good[frame:],
        "jpeg segment longer than the file": good[:2] + b"\xff\xe0\xff\xff" + good[20:60],
        "jpeg progressive cut": progressive[: first + 20],
        "jpeg ten thousand scans": progressive[:first] + again * 10**4 + b"\xff\xd9",
        "jpeg damaged EXIF": good[:2] + app1 + good[2:],
    }


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP container."""
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\x00" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webps() -> dict[str, bytes]:
    good = saved("WEBP", "RGB", 64, lossless=True)
    lossy = saved("WEBP", "RGB", 64)
    picture = good[20:]
    animated = saved(
        "WEBP", "RGB", 64, save_all=True, append_images=[Image.new("RGB", (64, 64), "red")] * 200
    )
    canvas = struct.pack("<I", 2) + b"\xff" * 6
    wide = struct.pack("<I", 0) + (12_999).to_bytes(3, "little") * 2
    return {
        "webp canvas of 2^48 pixels": riff((b"VP8X", canvas), (b"VP8L", picture)),
        "webp canvas of 169 million pixels": riff((b"VP8X", wide), (b"VP8L", picture)),
        "webp 16384 x 16384": riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + picture[5:])),
        "webp of two hundred frames": animated,
        "webp animated without frames": riff((b"VP8X", canvas), (b"ANIM", bytes(6))),
        "webp cut in the container": good[:10],
        "webp cut in the pixels": good[: len(good) // 2],
        "webp lossy cut": lossy[: len(lossy) // 2],
        "webp longer than the file": good[:4] + b"\xff\xff\xff\xf0" + good[8:],
        "webp of no known chunk": riff((b"JUNK", b"x" * 64)),
    }
