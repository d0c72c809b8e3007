"""Moving sprites: clips of Fashion-MNIST pictures that bounce about in a black box.

The recipe of Moving MNIST (Srivastava et al., 2015) with other sprites: each is scaled to half its
side, starts anywhere, moves straight on at a constant speed in any direction, and is reflected by
the walls. Where sprites overlap, the brighter one shows. The label is their number. A clip is a
function of (seed, split, index), and the test split's sprites are pictures of the test split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from unified_latents.training.data import fashion_mnist
from unified_latents.training.data.card import DataCard, DataError, Row, write_set

LABELS = ("one sprite", "two sprites", "three sprites")
SOURCE = f"Made by the moving-sprites recipe, seed {{seed}}, from {fashion_mnist.SOURCE}"
SPRITE = fashion_mnist.SIDE // 2


@dataclass(frozen=True)
class Scene:
    """What all clips of a set have in common; lengths in pixels, speeds in pixels a frame."""

    side: int = 32
    frames: int = 16
    most: int = 2
    """Sprites: each clip has 1 … `most`, equally often."""
    speed: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        if not SPRITE < self.side <= 256:
            raise DataError(f"the side must lie in {SPRITE + 1} … 256, got {self.side}")
        if not 1 <= self.frames <= 256:
            raise DataError(f"frames must lie in 1 … 256, got {self.frames}")
        if not 1 <= self.most <= len(LABELS):
            raise DataError(f"sprites must lie in 1 … {len(LABELS)}, got {self.most}")


DEMO = Scene()


def prepare_moving_sprites(
    out: Path,
    scene: Scene = DEMO,
    counts: tuple[int, int] = (20_000, 1_000),
    seed: int = 0,
    source: Path | None = None,
) -> DataCard:
    """Write `counts` clips (train, test) to `out` and return their card.

    `source` is what `prepare_fashion_mnist` takes. `DataError` if a count is no positive number
    or Fashion-MNIST is not found.
    """
    if min(counts) < 1 or seed < 0:
        raise DataError(f"counts must be positive and the seed ≥ 0, got {counts} and {seed}")
    arrays = fashion_mnist.find(source)
    splits = {
        name: rows(half_size(part.images), scene, count, (seed, number))
        for number, ((name, part), count) in enumerate(zip(arrays.items(), counts, strict=True))
    }
    return write_set(
        out,
        splits,
        name="moving-sprites",
        source=SOURCE.format(seed=seed),
        licence=fashion_mnist.LICENCE,
        image_size=(scene.side, scene.side),
        content_size=(scene.side, scene.side),
        channels=1,
        mode="L",
        background=0,
        fit="pad",
        labels=LABELS[: scene.most],
        frames=scene.frames,
    )


def half_size(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[n, 2h, 2w] → [n, h, w], the mean of each four pixels, rounded."""
    n, height, width = pictures.shape
    blocks = pictures.reshape(n, height // 2, 2, width // 2, 2)
    halved: NDArray[np.uint8] = np.rint(blocks.mean((2, 4))).astype(np.uint8)
    return halved


def rows(
    sprites: NDArray[np.uint8], scene: Scene, count: int, seed: tuple[int, int]
) -> Iterator[Row]:
    """`count` clips with sprites out of [n, h, h]; clip i is a function of (seed, i)."""
    for index in range(count):
        random = np.random.default_rng((*seed, index))
        number = int(random.integers(1, scene.most + 1))
        frames = clip(sprites[random.integers(len(sprites), size=number)], scene, random)
        yield Row(pillow.fromarray(frames.reshape(-1, scene.side)), number - 1)


def clip(
    sprites: NDArray[np.uint8], scene: Scene, random: np.random.Generator
) -> NDArray[np.uint8]:
    """[frames, side, side]: every sprite of [n, h, h] along a path of its own."""
    height = sprites.shape[1]
    frames = np.zeros((scene.frames, scene.side, scene.side), np.uint8)
    for sprite in sprites:
        for frame, (y, x) in zip(frames, path(scene, height, random), strict=True):
            place = frame[y : y + height, x : x + height]
            np.maximum(place, sprite, out=place)
    return frames


def path(scene: Scene, height: int, random: np.random.Generator) -> NDArray[np.int64]:
    """[frames, 2] upper left corners: a straight line, folded back at the walls, whole pixels."""
    room = scene.side - height
    angle, speed = random.uniform(0, 2 * np.pi), random.uniform(*scene.speed)
    velocity = speed * np.array([np.sin(angle), np.cos(angle)])
    straight = random.uniform(0, room, 2) + np.arange(scene.frames)[:, None] * velocity
    folded = room - np.abs(straight % (2 * room) - room)
    corners: NDArray[np.int64] = np.rint(folded).astype(np.int64)
    return corners
