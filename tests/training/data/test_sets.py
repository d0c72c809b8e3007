from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unified_latents.training.data.card import DataCard, DataError, Row, read_card, write_set
from unified_latents.training.data.sets import DataSet, load

SHAPE = (6, 5)


def pixels(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE, 3), dtype=np.uint8)


def write(folder: Path, *, mode: str = "RGB") -> DataCard:
    splits = {
        name: [Row(Image.fromarray(image), k % 3) for k, image in enumerate(pixels(seed, count))]
        for name, seed, count in (("train", 1, 9), ("test", 2, 4))
    }
    about = {"name": "noise", "source": "a generator", "licence": "CC0", "mode": mode}
    shape = {"image_size": SHAPE, "content_size": (4, 5), "channels": 3}
    rest = {"background": 0, "fit": "pad", "labels": ("a", "b", "c")}
    return write_set(folder, splits, **(about | shape | rest))


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    write(tmp_path)
    return load(tmp_path)


def test_batches_come_in_the_order_asked_for(data: DataSet) -> None:
    chosen = [7, 0, 7, 3]
    batch = data.train.batch(chosen)
    assert batch.image.dtype == torch.uint8
    assert batch.label.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(batch.image.permute(0, 2, 3, 1), pixels(1, 9)[chosen])


def test_kept_and_decoded_pictures_are_equal(data: DataSet) -> None:
    assert data.train.kept is not None
    again = replace(data.train, kept=None)
    for chosen in ([3, 1], [1, 3, 5], list(range(9))):
        assert data.train.batch(chosen).image.equal(again.batch(chosen).image)
        assert data.train.batch(chosen).image.equal(again.batch(chosen).image)


def test_a_batch_is_the_callers_own(data: DataSet) -> None:
    first = data.train.batch([2]).image
    before = first.clone()
    first.zero_()
    assert data.train.batch([2]).image.equal(before)


def test_empty_batch(data: DataSet) -> None:
    assert data.test.batch([]).image.shape == (0, 3, *SHAPE)


@pytest.mark.parametrize("index", [-1, 4])
def test_index_outside_the_split(data: DataSet, index: int) -> None:
    with pytest.raises(IndexError, match="0 … 3"):
        data.test.batch([0, index])


def test_labels(data: DataSet) -> None:
    assert data.test.labels.tolist() == [0, 1, 2, 0]


def test_card_round_trip(tmp_path: Path) -> None:
    assert write(tmp_path) == read_card(tmp_path)


def test_same_pictures_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a").sha256 == write(tmp_path / "b").sha256


def test_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    raw = bytearray((tmp_path / "test.parquet").read_bytes())
    raw[100] ^= 1
    (tmp_path / "test.parquet").write_bytes(raw)
    with pytest.raises(DataError, match=r"test\.parquet is not the file its card describes"):
        load(tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"no train\.parquet"):
        load(tmp_path)


def test_no_card(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no card\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"mode": "L"}, "3 channels"),
        ({"content_size": [7, 5]}, "larger"),
        ({"labels": []}, "label"),
        ({"counts": {"train": 8, "test": 4}}, "holds 9 pictures"),
        ({"image_size": [5, 6]}, "a picture is RGB"),
    ],
)
def test_card_that_does_not_fit(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write(tmp_path)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        load(tmp_path).train.batch([0])


def test_card_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="missing or unknown"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_card(tmp_path)


def test_an_interrupted_preparation_leaves_no_card(tmp_path: Path) -> None:
    write(tmp_path)

    def failing() -> object:
        yield Row(Image.new("RGB", SHAPE[::-1]), 0)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_set(tmp_path, {"train": failing()}, labels=("a",))  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"no card\.json"):
        load(tmp_path)
