"""The data card and the writer of prepared sets.

A prepared set is a folder: `train.parquet`, `test.parquet` (columns `image`, PNG bytes with the
`datasets.Image` feature, and `label`, a `ClassLabel`) and `card.json`, which says what the
pictures are, whose they are, and the SHA-256 of each file. A clip is one PNG with its frames from
top to bottom. The card is written last, so a folder
with a card is whole. The same pictures give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image
from PIL import Image as pillow

from unified_latents.training.errors import TrainingError

Mode = Literal["L", "RGB"]
Fit = Literal["crop", "pad"]
SPLITS = ("train", "test")
CARD = "card.json"
_ROWS = 1000


class DataError(TrainingError):
    """A source, a set or a picture that cannot be used; the message names which, and why."""


@dataclass(frozen=True)
class DataCard:
    """What a prepared set is. `card.json` holds these fields and nothing else."""

    name: str
    source: str
    licence: str
    image_size: tuple[int, int]
    """(H, W) of every picture."""
    content_size: tuple[int, int]
    """(H, W) of the centred region that every picture fills; less than `image_size` if padded."""
    channels: int
    mode: Mode
    background: int
    """Gray level 0…255 under transparency and in padding."""
    fit: Fit
    labels: tuple[str, ...]
    counts: dict[str, int]
    sha256: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)
    """Source files that could not be read: relative name → kind of error."""
    frames: int | None = None
    """Of every clip; None for a set of pictures."""

    def __post_init__(self) -> None:
        if self.channels != {"L": 1, "RGB": 3}.get(self.mode):
            raise DataError(f"mode {self.mode!r} does not have {self.channels} channels")
        if any(c > s for c, s in zip(self.content_size, self.image_size, strict=True)):
            raise DataError(f"content {self.content_size} is larger than {self.image_size}")
        if not self.labels:
            raise DataError("a set needs at least one label")
        if self.frames is not None and self.frames < 1:
            raise DataError(f"a clip needs at least one frame, got {self.frames}")

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W), or (T, H, W) of a clip."""
        return self.image_size if self.frames is None else (self.frames, *self.image_size)

    @property
    def content(self) -> tuple[int, ...]:
        """`content_size`, with all frames of a clip."""
        return self.content_size if self.frames is None else (self.frames, *self.content_size)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(H, W) of a stored PNG."""
        height, width = self.image_size
        return (self.frames or 1) * height, width


class Row(NamedTuple):
    """One picture of a split, or the frames of a clip from top to bottom, as they are stored."""

    image: pillow.Image
    label: int


_Item = TypeVar("_Item")


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def png_bytes(image: pillow.Image) -> bytes:
    """A PNG without metadata: equal pixels give equal bytes."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def write_split(path: Path, rows: Iterable[Row], labels: tuple[str, ...]) -> int:
    """Stream `rows` into a parquet file, moved into place when whole; returns their number."""
    features = Features({"image": Image(), "label": ClassLabel(names=list(labels))})
    count = 0
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(partial, features.arrow_schema) as writer:
        stream = iter(rows)
        while chunk := list(islice(stream, _ROWS)):
            columns = {
                "image": [{"bytes": png_bytes(row.image), "path": None} for row in chunk],
                "label": [row.label for row in chunk],
            }
            writer.write_table(pa.table(columns, schema=features.arrow_schema))
            count += len(chunk)
    os.replace(partial, path)
    return count


def write_set(out: Path, splits: Mapping[str, Iterable[Row]], **about: Any) -> DataCard:
    """Write every split and then the card; `about` holds the card's other fields.

    An older card is removed first, so that a folder is never described by another set's card.
    """
    (out / CARD).unlink(missing_ok=True)
    labels = tuple(about["labels"])
    counts = {
        name: write_split(out / f"{name}.parquet", rows, labels) for name, rows in splits.items()
    }
    sha256 = {f"{name}.parquet": digest(out / f"{name}.parquet") for name in counts}
    card = DataCard(**(about | {"labels": labels, "counts": counts, "sha256": sha256}))
    partial = out / f"{CARD}.partial"
    partial.write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(partial, out / CARD)
    return card


def read_card(folder: Path) -> DataCard:
    """The card of a prepared set; `DataError` if it is absent, unreadable or of another shape."""
    path = folder / CARD
    if not path.is_file():
        raise DataError(f"{folder} holds no {CARD}: prepare it with `ul-train data …`")
    try:
        raw = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    wanted = {entry.name for entry in fields(DataCard)}
    found = set(raw) | {"skipped", "frames"} if isinstance(raw, dict) else set()
    if found != wanted:
        raise DataError(f"{path}: fields missing or unknown: {sorted(found ^ wanted)}")
    tuples = {key: tuple(raw[key]) for key in ("image_size", "content_size", "labels")}
    return DataCard(**(raw | tuples))
