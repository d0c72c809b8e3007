"""Prepared sets, read: `load(folder)` gives the card and two splits that hand out batches.

Pictures stay compressed in memory-mapped Arrow (`datasets`) and are decoded when asked for: at
the sizes we train, decoding costs some hundredths of a training step, and a set may be larger
than memory.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, Image
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image as pillow
from torch import Tensor

from unified_latents.training.card import SPLITS, DataCard, DataError, digest, read_card
from unified_latents.training.fashion_mnist import prepare_fashion_mnist
from unified_latents.training.folder import prepare_folder

__all__ = [
    "Batch",
    "DataCard",
    "DataError",
    "DataSet",
    "Split",
    "load",
    "prepare_fashion_mnist",
    "prepare_folder",
]


class Batch(NamedTuple):
    image: UInt8[Tensor, "n c h w"]
    label: Int[Tensor, " n"]


@dataclass(frozen=True)
class Split:
    """One split: pictures are read by index, in any order, any number of times."""

    rows: Dataset
    card: DataCard

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Every picture's label, without decoding one."""
        return torch.from_numpy(self.rows.with_format("numpy")["label"][:].astype(np.int64))

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pictures at `indices`, in that order. `DataError` if one is not what the card says.

        An index outside the split is an `IndexError`.
        """
        chosen = self.rows[list(indices)]
        pictures = [self._decode(image["bytes"]) for image in chosen["image"]]
        shape = (0, *self.card.image_size, self.card.channels)
        pixels = np.stack(pictures) if pictures else np.empty(shape, np.uint8)
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return Batch(image, torch.tensor(chosen["label"], dtype=torch.int64))

    def _decode(self, raw: bytes) -> NDArray[np.uint8]:
        image = pillow.open(io.BytesIO(raw), formats=["PNG"])
        height, width = self.card.image_size
        if image.mode != self.card.mode or image.size != (width, height):
            raise DataError(
                f"a picture is {image.mode} {image.size}, the card of {self.card.name!r} says "
                f"{self.card.mode} {(width, height)}"
            )
        return np.asarray(image).reshape(height, width, self.card.channels)


@dataclass(frozen=True)
class DataSet:
    card: DataCard
    train: Split
    test: Split


def load(folder: Path) -> DataSet:
    """Open a prepared set, its files checked against the card.

    `DataError` if the card or a file is absent, or a file is not the one the card describes.
    """
    folder = Path(folder)
    card = read_card(folder)
    return DataSet(card, *(_open(folder, card, name) for name in SPLITS))


def _open(folder: Path, card: DataCard, name: str) -> Split:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise DataError(f"{folder} has a card but no {path.name}")
    if digest(path) != card.sha256.get(path.name):
        raise DataError(f"{path} is not the file its card describes (SHA-256 differs)")
    rows = Dataset.from_parquet(str(path)).cast_column("image", Image(decode=False))
    if len(rows) != card.counts.get(name):
        raise DataError(f"{path} holds {len(rows)} pictures, its card says {card.counts}")
    return Split(rows, card)
