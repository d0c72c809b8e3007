from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from unified_latents.training import grids


def test_pictures_lie_row_by_row() -> None:
    pictures = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 2, 3) + 1
    tiled = grids.tile(pictures, columns=2)[..., 0]
    assert tiled.shape == (6, 6)
    assert tiled[::2, ::3].tolist() == [[1, 2], [3, 4], [5, 0]]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_is_enlarged_by_a_whole_factor(tmp_path: Path, channels: int, mode: str) -> None:
    pictures = torch.randint(0, 256, (3, channels, 16, 16), dtype=torch.uint8)
    path = tmp_path / "deep" / "grid.png"
    grids.write(path, pictures, columns=3)
    with Image.open(path) as image:
        assert (image.mode, image.size) == (mode, (3 * 64, 64))
        corner = image.getpixel((1, 1))
    expected = pictures[0, :, 0, 0].tolist()
    assert corner == (expected[0] if channels == 1 else tuple(expected))
