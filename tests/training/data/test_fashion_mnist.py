from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unified_latents.training.data import fashion_mnist
from unified_latents.training.data.card import DataError, digest
from unified_latents.training.data.fashion_mnist import (
    INSTALLED,
    LABELS,
    SHA256,
    prepare_fashion_mnist,
    read_idx,
)
from unified_latents.training.data.sets import load


def idx(array: NDArray[np.uint8]) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def arrays(counts: dict[str, int]) -> dict[str, NDArray[np.uint8]]:
    generator = np.random.default_rng(1)
    made = {}
    for prefix, count in counts.items():
        made[f"{prefix}-images-idx3-ubyte"] = generator.integers(
            0, 256, (count, 28, 28), dtype=np.uint8
        )
        made[f"{prefix}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % len(LABELS)
    return made


class Source:
    """Four small idx files and their digests."""

    def __init__(self, folder: Path, *, zipped: bool) -> None:
        self.folder = folder
        self.arrays = arrays({"train": 23, "t10k": 11})
        self.digests = {}
        folder.mkdir(parents=True)
        for name, array in self.arrays.items():
            raw = idx(array)
            self.digests[name] = hashlib.sha256(raw).hexdigest()
            stored = gzip.compress(raw, mtime=0) if zipped else raw
            (folder / (name + ".gz" * zipped)).write_bytes(stored)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source", zipped=True)


def test_pictures_are_padded_with_zeros_and_keep_order_and_labels(
    source: Source, tmp_path: Path
) -> None:
    card = prepare_fashion_mnist(tmp_path / "out", source.folder, source.digests)
    data = load(tmp_path / "out")
    assert data.card == card
    for split, prefix in ((data.train, "train"), (data.test, "t10k")):
        batch = split.batch(range(len(split)))
        pixels = batch.image.numpy()
        images = source.arrays[f"{prefix}-images-idx3-ubyte"]
        np.testing.assert_array_equal(pixels[:, 0, 2:30, 2:30], images)
        assert pixels.shape == (len(images), 1, 32, 32)
        assert int(pixels.sum()) == int(images.sum())
        np.testing.assert_array_equal(batch.label, source.arrays[f"{prefix}-labels-idx1-ubyte"])


def test_card_says_what_the_set_is(source: Source, tmp_path: Path) -> None:
    card = prepare_fashion_mnist(tmp_path / "out", source.folder, source.digests)
    assert (card.image_size, card.content_size, card.channels) == ((32, 32), (28, 28), 1)
    assert (card.mode, card.fit, card.background) == ("L", "pad", 0)
    assert card.labels == LABELS
    assert card.counts == {"train": 23, "test": 11}
    assert "Expat" in card.licence
    assert card.sha256["test.parquet"] == digest(tmp_path / "out" / "test.parquet")


def test_same_input_gives_same_bytes_zipped_or_not(source: Source, tmp_path: Path) -> None:
    plain = Source(tmp_path / "package" / INSTALLED, zipped=False)
    prepare_fashion_mnist(tmp_path / "a", source.folder, source.digests)
    prepare_fashion_mnist(tmp_path / "b", tmp_path / "package", plain.digests)
    for name in ("train.parquet", "test.parquet", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_pictures_are_refused_by_digest(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: SHA-256 is .*, not c59f"):
        prepare_fashion_mnist(tmp_path / "out", source.folder, SHA256)
    assert not (tmp_path / "out" / "card.json").exists()


def test_missing_file_is_named(source: Source, tmp_path: Path) -> None:
    (source.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="neither t10k-labels-idx1-ubyte nor"):
        prepare_fashion_mnist(tmp_path / "out", source.folder, source.digests)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x89PNG....", "magic number 89504e47"),
        (b"", "magic number"),
        (b"\x00\x00\x08\x03\x00\x00\x00\x02", "do not fill shape"),
        (idx(np.zeros((2, 3, 3), np.uint8))[:-1], r"17 bytes do not fill shape \(2, 3, 3\)"),
        (idx(np.zeros((2, 3, 3), np.uint8)) + b"x", r"19 bytes do not fill"),
    ],
)
def test_idx_that_is_none(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "file", hashlib.sha256(raw).hexdigest())


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(gzip.compress(bytes(1000))[:-12])
    with pytest.raises(DataError, match=r"file\.gz cannot be unpacked"):
        read_idx(tmp_path / "file", "")


def test_pictures_and_labels_of_different_number(tmp_path: Path) -> None:
    source = Source(tmp_path / "source", zipped=False)
    raw = idx(np.zeros(5, np.uint8))
    (source.folder / "train-labels-idx1-ubyte").write_bytes(raw)
    source.digests["train-labels-idx1-ubyte"] = hashlib.sha256(raw).hexdigest()
    with pytest.raises(DataError, match="do not fit"):
        prepare_fashion_mnist(tmp_path / "out", source.folder, source.digests)


def test_label_beyond_the_classes(tmp_path: Path) -> None:
    source = Source(tmp_path / "source", zipped=False)
    raw = idx(np.full(23, 10, np.uint8))
    (source.folder / "train-labels-idx1-ubyte").write_bytes(raw)
    source.digests["train-labels-idx1-ubyte"] = hashlib.sha256(raw).hexdigest()
    with pytest.raises(DataError, match="label 10 of 10 classes"):
        prepare_fashion_mnist(tmp_path / "out", source.folder, source.digests)


def test_without_any_way_all_three_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "HUB", "nobody/has-this-set")
    with pytest.raises(DataError, match=r"Three ways.*no apt-get here; no hub"):
        prepare_fashion_mnist(tmp_path / "out")
