"""Sample grids: pictures side by side in one PNG, to look at while a run goes on."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

_SIDE = 64


def tile(pictures: UInt8[Tensor, "n c h w"], columns: int) -> UInt8[Tensor, "H W c"]:
    """Pictures row by row; places left over stay black."""
    pixels = pictures.cpu().permute(0, 2, 3, 1)
    rows = math.ceil(len(pixels) / columns)
    _, height, width, channels = pixels.shape
    canvas = torch.zeros(rows * columns, height, width, channels, dtype=torch.uint8)
    canvas[: len(pixels)] = pixels
    placed: Tensor = canvas.unflatten(0, (rows, columns)).transpose(1, 2)
    return placed.reshape(rows * height, columns * width, channels)


def stills(pictures: UInt8[Tensor, "n c *s"]) -> UInt8[Tensor, "m c h w"]:
    """Pictures as they are, clips as their frames, one after another."""
    return pictures.movedim(1, -3).flatten(0, -4)


def write(path: Path, pictures: UInt8[Tensor, "n c h w"], columns: int) -> None:
    """A PNG of the tiled pictures, small ones enlarged by a whole factor."""
    tiled = tile(pictures, columns)
    image = Image.fromarray((tiled[..., 0] if tiled.shape[-1] == 1 else tiled).numpy())
    zoom = max(1, _SIDE // pictures.shape[-1])
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
