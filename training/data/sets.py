"""Prepared sets, read: `load(folder)` gives the card and two splits that hand out batches.

Pictures stay compressed in memory-mapped Arrow (`datasets`) and are decoded when first asked
for. A split whose pixels fit into `KEEP` bytes keeps what it has decoded, so that an epoch after
the first costs a copy; a larger one decodes every time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Image
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image as pillow
from torch import Tensor

from unified_latents.training.data.card import SPLITS, DataCard, DataError, digest, read_card
from unified_latents.training.data.fashion_mnist import prepare_fashion_mnist
from unified_latents.training.data.folder import prepare_folder

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

KEEP = 2**30
"""Bytes of decoded pixels that a split may keep in memory."""


class Batch(NamedTuple):
    image: UInt8[Tensor, "n c *s"]
    label: Int[Tensor, " n"]


class Kept:
    """Decoded pictures [n, *size, c]; memory is taken as pictures arrive, not ahead of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._pixels = np.empty(shape, np.uint8)
        self._known = np.zeros(shape[0], np.bool_)

    def get(
        self, index: NDArray[np.int64], decode: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """The pictures at `index`; those not yet known are decoded first."""
        missing = np.unique(index[~self._known[index]])
        if missing.size:
            self._pixels[missing] = decode(missing)
            self._known[missing] = True
        kept: NDArray[np.uint8] = self._pixels[index]
        return kept


@dataclass(frozen=True)
class Split:
    """One split: pictures are read by index, in any order, any number of times."""

    rows: Dataset
    card: DataCard
    labels: Int[Tensor, " n"]
    """Every picture's label."""
    kept: Kept | None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pictures at `indices`, in that order. `DataError` if one is not what the card says.

        An index outside 0 … n − 1 is an `IndexError`.
        """
        index = np.asarray(indices, np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"indices must lie in 0 … {len(self) - 1}")
        pixels = self.kept.get(index, self._decode) if self.kept else self._decode(index)
        image = torch.from_numpy(pixels).movedim(-1, 1).contiguous()
        return Batch(image, self.labels[torch.from_numpy(index)])

    def _decode(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(index), *_picture_shape(self.card)), np.uint8)
        for place, stored in enumerate(self.rows[index]["image"]):
            out[place] = _pixels(stored["bytes"], self.card)
        return out


def _picture_shape(card: DataCard) -> tuple[int, ...]:
    return (*card.size, card.channels)


def _pixels(raw: bytes, card: DataCard) -> NDArray[np.uint8]:
    image = pillow.open(io.BytesIO(raw), formats=["PNG"])
    height, width = card.stored_size
    if image.mode != card.mode or image.size != (width, height):
        raise DataError(
            f"a picture is {image.mode} {image.size}, the card of {card.name!r} says "
            f"{card.mode} {(width, height)}"
        )
    return np.asarray(image).reshape(_picture_shape(card))


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


def _rows(path: Path) -> Dataset:
    """`datasets` refuses to read a file without rows, which a set of one picture has."""
    if pq.read_metadata(path).num_rows == 0:
        return Dataset(pq.read_table(path))
    return Dataset.from_parquet(str(path))


def _open(folder: Path, card: DataCard, name: str) -> Split:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise DataError(f"{folder} has a card but no {path.name}")
    if digest(path) != card.sha256.get(path.name):
        raise DataError(f"{path} is not the file its card describes (SHA-256 differs)")
    rows = _rows(path).cast_column("image", Image(decode=False))
    if len(rows) != card.counts.get(name):
        raise DataError(f"{path} holds {len(rows)} pictures, its card says {card.counts}")
    shape = (len(rows), *_picture_shape(card))
    kept = Kept(shape) if math.prod(shape) <= KEEP else None
    return Split(rows, card, torch.tensor(rows["label"][:], dtype=torch.int64), kept)
