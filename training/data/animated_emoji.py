"""Animated Fluent emoji: clips of 16 frames spread over a loop, on white.

The pictures are Microsoft's, under the MIT licence, and come in four npm packages (about 730 MB in
all: 256×256 animated WebP, mostly 72 frames of 42 ms); names and groups come from a fifth. Emoji
that differ by the tone of a skin alone are left out, and so are those that stand still. The label
is the group; every tenth name, by its MD5, is in the test split.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from unified_latents.training.data.card import DataCard, DataError, Row, write_set

PACKAGES = (
    *(f"@lobehub/fluent-emoji-anim-{part}@1.0.0" for part in range(1, 5)),
    "emoji-datasource-google@16.0.0",
)
SOURCE = f"Fluent emoji, animated (Microsoft), from the npm packages {', '.join(PACKAGES)}"
LICENCE = "MIT, copyright Microsoft Corporation"
FRAMES, SIDE = 16, 64
_NAMES = "emoji-datasource-google/emoji.json"
_CLIPS = "@lobehub/fluent-emoji-anim-*/assets/*.webp"
_TEST = 10


class Emoji(NamedTuple):
    """What `emoji.json` says of one."""

    name: str
    group: str


class Clip(NamedTuple):
    """One emoji: frames [16, side, side, 3]."""

    emoji: Emoji
    frames: NDArray[np.uint8]


def prepare_animated_emoji(out: Path, source: Path | None = None, side: int = SIDE) -> DataCard:
    """Write the prepared set to `out` and return its card.

    `source` is a `node_modules` folder with the packages, or an .npz file of clips already
    converted (`videos`, `names`, `groups`), whose side decides. Without it npm installs the
    packages into a temporary folder, and no script of theirs runs. `DataError` if nothing is found.
    """
    if not 8 <= side <= 256:
        raise DataError(f"the side must lie in 8 … 256, got {side}")
    if source is not None and source.suffix == ".npz":
        return _write(out, _converted(source))
    if source is not None:
        return _write(out, _read(source, side))
    with tempfile.TemporaryDirectory() as folder:
        return _write(out, _read(_install(Path(folder)), side))


def _install(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed: give a node_modules folder or an .npz by --source")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"npm failed: {said}")
    return folder / "node_modules"


def _read(folder: Path, side: int) -> list[Clip]:
    """Every emoji that moves, by its code point."""
    if not (folder / _NAMES).is_file():
        raise DataError(f"{folder} holds no {_NAMES}")
    known = names(json.loads((folder / _NAMES).read_text("utf-8")))
    clips = []
    for path in sorted(folder.glob(_CLIPS), key=lambda path: path.name):
        emoji = known.get(path.stem.lower().replace("-fe0f", ""))
        frames = None if emoji is None else read_frames(path, side)
        if emoji is not None and frames is not None:
            clips.append(Clip(emoji, frames))
    if not clips:
        raise DataError(f"{folder} holds no animated emoji ({_CLIPS})")
    return clips


def names(entries: list[dict[str, str]]) -> dict[str, Emoji]:
    """Code points without variation selectors → name and group; no skin tones."""
    return {
        entry["unified"].lower().replace("-fe0f", ""): Emoji(
            (entry["name"] or entry["short_name"]).lower(), entry["category"]
        )
        for entry in entries
    }


def read_frames(path: Path, side: int) -> NDArray[np.uint8] | None:
    """[16, side, side, 3] on white, evenly spread over the loop; None for a still picture."""
    try:
        with pillow.open(path, formats=["WEBP"]) as image:
            length = getattr(image, "n_frames", 1)
            if length < FRAMES:
                return None
            wanted = [round(k * length / FRAMES) for k in range(FRAMES)]
            return np.stack([_on_white(image, place, side) for place in wanted])
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error


def _on_white(image: pillow.Image, place: int, side: int) -> NDArray[np.uint8]:
    """One frame, scaled with its colours premultiplied, so that no dark fringe appears."""
    image.seek(place)
    frame = image.convert("RGBA").convert("RGBa")
    small = frame.resize((side, side), pillow.Resampling.LANCZOS).convert("RGBA")
    canvas = pillow.new("RGBA", small.size, (255, 255, 255, 255))
    canvas.alpha_composite(small)
    return np.asarray(canvas.convert("RGB"))


def _converted(path: Path) -> list[Clip]:
    try:
        with np.load(path) as arrays:
            videos, titles, groups = (arrays[name] for name in ("videos", "names", "groups"))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path.name} is no file of converted clips: {error}") from error
    shape = videos.shape
    if videos.dtype != np.uint8 or shape[1:2] != (FRAMES,) or shape[4:] != (3,):
        raise DataError(
            f"{path.name}: clips are {videos.dtype} {shape}, not uint8 [n, 16, s, s, 3]"
        )
    if not len(videos) == len(titles) == len(groups) > 0:
        raise DataError(f"{path.name}: {shape[0]} clips, {len(titles)} names, {len(groups)} groups")
    return [
        Clip(Emoji(str(name), str(group)), frames)
        for frames, name, group in zip(videos, titles, groups, strict=True)
    ]


def is_test(name: str) -> bool:
    """Every tenth name: a function of the name alone."""
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % _TEST == 0


def _write(out: Path, clips: list[Clip]) -> DataCard:
    side = clips[0].frames.shape[1]
    labels = tuple(sorted({clip.emoji.group for clip in clips}))
    splits = {
        split: _rows([clip for clip in clips if is_test(clip.emoji.name) == test], labels)
        for split, test in (("train", False), ("test", True))
    }
    return write_set(
        out,
        splits,
        name="animated-emoji",
        source=SOURCE,
        licence=LICENCE,
        image_size=(side, side),
        content_size=(side, side),
        channels=3,
        mode="RGB",
        background=255,
        fit="pad",
        labels=labels,
        frames=FRAMES,
    )


def _rows(clips: list[Clip], labels: tuple[str, ...]) -> Iterator[Row]:
    for clip in clips:
        strip = clip.frames.reshape(-1, *clip.frames.shape[2:])
        yield Row(pillow.fromarray(strip), labels.index(clip.emoji.group))
