"""Anyone's pictures: a folder, with or without class sub-folders, to a prepared set.

A picture is turned upright (EXIF), laid over the background, brought to the set's mode, and
fitted: `crop` scales the short side and keeps the centre, `pad` only ever scales down and
centres on the background.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as pillow
from PIL import ImageOps

from unified_latents.training.data.card import DataCard, DataError, Fit, Mode, Row, write_set

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
UNLABELLED = "image"
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, struct.error, LookupError, TypeError),
    pillow.DecompressionBombError,
)
"""What Pillow raises for broken files, by format and block."""
_GRAY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"})


@dataclass(frozen=True)
class Frame:
    """What all pictures of a set have in common, under the card's names."""

    image_size: tuple[int, int]
    mode: Mode
    fit: Fit
    background: int


def fit_image(image: pillow.Image, frame: Frame) -> pillow.Image:
    """One picture as the networks see it, of the frame's mode and size.

    The service's `/encode` follows the same steps, so that a user's picture meets the model as
    its training pictures did.
    """
    upright = ImageOps.exif_transpose(image)
    flat = flatten(upright, frame.background).convert(frame.mode)
    height, width = frame.image_size
    if frame.fit == "crop":
        return ImageOps.fit(flat, (width, height), pillow.Resampling.LANCZOS)
    scale = min(width / flat.width, height / flat.height, 1.0)
    if scale < 1:
        target = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
        flat = flat.resize(target, pillow.Resampling.LANCZOS)
    level = frame.background
    colour = level if frame.mode == "L" else (level, level, level)
    canvas = pillow.new(frame.mode, (width, height), colour)
    canvas.paste(flat, ((width - flat.width) // 2, (height - flat.height) // 2))
    return canvas


def flatten(image: pillow.Image, background: int) -> pillow.Image:
    """Transparency laid over a gray background, sixteen bits reduced to eight."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling.
        levels = np.asarray(image).astype(np.float64) / 257
        return pillow.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    canvas = pillow.new("RGBA", image.size, (background, background, background, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


@dataclass(frozen=True)
class _Survey:
    """What a first look over the folder found; paths are relative to it."""

    usable: tuple[Path, ...]
    skipped: dict[str, str]
    coloured: bool


def prepare_folder(
    path: Path,
    out: Path,
    size: int,
    *,
    fit: Fit = "crop",
    test_fraction: float = 0.1,
    mode: Mode | Literal["auto"] = "auto",
    background: int = 0,
) -> DataCard:
    """Write every picture under `path`, `size` × `size`, as a prepared set.

    The first folder below `path` names a picture's class; without such folders all pictures
    share the label "image". A picture goes to the test split by a hash of its relative name, and
    stays there when others come. Mode "auto" is RGB if any picture has colour. Unreadable files
    are listed in the card. `DataError` if none is readable or an argument is out of range.
    """
    _check_arguments(path, size, test_fraction, background)
    survey = _survey(path)
    labels = _labels(survey.usable)
    found: Mode = "RGB" if survey.coloured else "L"
    frame = Frame((size, size), found if mode == "auto" else mode, fit, background)

    def row(file: Path) -> Row:
        with pillow.open(path / file) as image:
            picture = fit_image(image, frame)
        return Row(picture, labels.index(file.parts[0]) if len(labels) > 1 else 0)

    return write_set(
        out,
        {name: map(row, files) for name, files in _split(survey.usable, test_fraction).items()},
        name=path.resolve().name,
        source=f"a folder of {len(survey.usable)} pictures",
        licence="not stated",
        content_size=frame.image_size,
        channels=1 if frame.mode == "L" else 3,
        labels=labels,
        skipped=survey.skipped,
        **asdict(frame),
    )


def _check_arguments(path: Path, size: int, test_fraction: float, background: int) -> None:
    if not path.is_dir():
        raise DataError(f"{path} is not a folder")
    if size < 1:
        raise DataError(f"size must be at least 1, got {size}")
    if not 0 < test_fraction < 1:
        raise DataError(f"the test fraction must lie between 0 and 1, got {test_fraction}")
    if not 0 <= background <= 255:
        raise DataError(f"the background must be 0 to 255, got {background}")


def _survey(path: Path) -> _Survey:
    """Decode every picture once: which are whole, and is there colour."""
    usable, skipped, coloured = [], {}, False
    for file in _pictures(path):
        try:
            with pillow.open(path / file) as image:
                image.load()
                ImageOps.exif_transpose(image)  # may be damaged where the picture itself is whole
                coloured |= image.mode not in _GRAY
        except _DAMAGE as error:
            skipped[file.as_posix()] = type(error).__name__
            continue
        usable.append(file)
    if not usable:
        raise DataError(f"no usable picture under {path} ({len(skipped)} could not be read)")
    return _Survey(tuple(usable), skipped, coloured)


def _pictures(path: Path) -> list[Path]:
    """Every file with a picture's suffix, hidden ones left out, in a fixed order."""
    found = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return sorted(
        file
        for file in found
        if file.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in file.parts)
    )


def _labels(files: Sequence[Path]) -> tuple[str, ...]:
    """The class folders' names, sorted; pictures beside class folders have no class."""
    loose = [file for file in files if len(file.parts) == 1]
    if len(loose) == len(files):
        return (UNLABELLED,)
    if loose:
        raise DataError(
            f"{len(loose)} pictures lie beside class folders, {loose[0]} first: "
            "put each into a class folder, or all into one"
        )
    return tuple(sorted({file.parts[0] for file in files}))


def _split(files: Sequence[Path], test_fraction: float) -> dict[str, list[Path]]:
    """By name; where a small set leaves one side empty, the nearest picture crosses over."""
    ranked = sorted((_position(file), file) for file in files)
    cut = sum(position < test_fraction for position, _ in ranked)
    cut = min(max(cut, 1), len(ranked) - 1) if len(ranked) > 1 else 0
    return {
        "train": sorted(file for _, file in ranked[cut:]),
        "test": sorted(file for _, file in ranked[:cut]),
    }


def _position(file: Path) -> float:
    """A number in [0, 1) that only the relative name decides."""
    word = hashlib.sha256(file.as_posix().encode()).digest()[:8]
    return int.from_bytes(word, "big") / 2**64
