from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified_latents.training.data.card import DataError
from unified_latents.training.data.folder import Frame, fit_image, prepare_folder
from unified_latents.training.data.sets import load

BLUE, GREEN = (0, 0, 255), (0, 255, 0)

_EXIF = b"eXIf" + b"garbage!garbage!"
DAMAGED_EXIF = struct.pack(">I", 16) + _EXIF + struct.pack(">I", zlib.crc32(_EXIF))


def picture(path: Path, size: tuple[int, int] = (8, 8), seed: int = 0, mode: str = "RGB") -> None:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    root = tmp_path / "animals"
    for seed in range(12):
        picture(root / "cat" / f"{seed}.png", seed=seed)
        picture(root / "dog" / "puppies" / f"{seed}.webp", seed=100 + seed)
    return root


def test_sub_folders_are_labels(animals: Path, tmp_path: Path) -> None:
    card = prepare_folder(animals, tmp_path / "out", 8, test_fraction=0.3)
    data = load(tmp_path / "out")
    assert card.labels == ("cat", "dog")
    assert len(data.train) + len(data.test) == 24
    labels = [*data.train.labels.tolist(), *data.test.labels.tolist()]
    assert (labels.count(0), labels.count(1)) == (12, 12)


def test_pictures_of_the_right_size_are_kept_to_the_pixel(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", seed=1)
    picture(tmp_path / "in" / "b.png", seed=2)
    prepare_folder(tmp_path / "in", tmp_path / "out", 8)
    data = load(tmp_path / "out")
    kept = {split.batch([0]).image.numpy().tobytes() for split in (data.train, data.test)}
    expected = set()
    for name in ("a", "b"):
        with Image.open(tmp_path / "in" / f"{name}.png") as image:
            expected.add(np.asarray(image).transpose(2, 0, 1).tobytes())
    assert kept == expected


def test_without_sub_folders_there_is_one_label(tmp_path: Path) -> None:
    for seed in range(3):
        picture(tmp_path / "in" / f"{seed}.png", seed=seed)
    card = prepare_folder(tmp_path / "in", tmp_path / "out", 8)
    assert card.labels == ("image",)
    assert load(tmp_path / "out").train.labels.unique().tolist() == [0]


def test_pictures_beside_class_folders_are_an_error(animals: Path, tmp_path: Path) -> None:
    picture(animals / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png"):
        prepare_folder(animals, tmp_path / "out", 8)


def test_a_picture_stays_in_its_split_when_others_come(animals: Path, tmp_path: Path) -> None:
    def test_pixels(out: Path) -> set[bytes]:
        prepare_folder(animals, out, 8, test_fraction=0.4)
        split = load(out).test
        return {image.numpy().tobytes() for image in split.batch(range(len(split))).image}

    before = test_pixels(tmp_path / "a")
    for seed in range(10):
        picture(animals / "cow" / f"{seed}.png", seed=200 + seed)
    after = test_pixels(tmp_path / "b")
    assert before < after


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_two_pictures_fill_both_splits(tmp_path: Path, fraction: float) -> None:
    picture(tmp_path / "in" / "a.png", seed=1)
    picture(tmp_path / "in" / "b.png", seed=2)
    card = prepare_folder(tmp_path / "in", tmp_path / "out", 8, test_fraction=fraction)
    assert card.counts == {"train": 1, "test": 1}


def test_one_picture_is_for_training(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    card = prepare_folder(tmp_path / "in", tmp_path / "out", 8, test_fraction=0.99)
    assert card.counts == {"train": 1, "test": 0}
    assert load(tmp_path / "out").test.batch([]).image.shape == (0, 3, 8, 8)


def test_broken_and_foreign_files_are_left_out_and_listed(animals: Path, tmp_path: Path) -> None:
    whole = (animals / "cat" / "0.png").read_bytes()
    (animals / "cat" / "cut.png").write_bytes(whole[:60])
    (animals / "cat" / "empty.jpg").write_bytes(b"")
    (animals / "cat" / "exif.png").write_bytes(whole[:33] + DAMAGED_EXIF + whole[33:])
    (animals / "cat" / "notes.txt").write_text("no picture")
    picture(animals / ".thumbnails" / "x.png")
    card = prepare_folder(animals, tmp_path / "out", 8)
    assert sum(card.counts.values()) == 24
    assert set(card.skipped) == {"cat/cut.png", "cat/empty.jpg", "cat/exif.png"}
    assert json.loads((tmp_path / "out" / "card.json").read_text())["skipped"] == card.skipped


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no usable picture .*\(1 could not be read\)"):
        prepare_folder(tmp_path / "in", tmp_path / "out", 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size"),
        ({"test_fraction": 0.0}, "test fraction"),
        ({"background": 256}, "background"),
        ({"path": Path("nowhere")}, "not a folder"),
    ],
)
def test_arguments_out_of_range(
    animals: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    arguments = {"path": animals, "out": tmp_path / "out", "size": 8} | changes
    with pytest.raises(DataError, match=message):
        prepare_folder(**arguments)  # type: ignore[arg-type]


def test_mode_is_gray_only_if_every_picture_is(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", mode="L")
    picture(tmp_path / "in" / "b.png", mode="L", seed=1)
    assert prepare_folder(tmp_path / "in", tmp_path / "out", 8).mode == "L"
    picture(tmp_path / "in" / "c.png", mode="RGB")
    assert prepare_folder(tmp_path / "in", tmp_path / "out", 8).mode == "RGB"
    assert prepare_folder(tmp_path / "in", tmp_path / "out", 8, mode="L").channels == 1


def test_crop_scales_the_short_side_and_keeps_the_centre() -> None:
    wide = Image.new("RGB", (40, 10), BLUE)
    wide.paste(GREEN, (15, 0, 25, 10))
    fitted = np.asarray(fit_image(wide, Frame((10, 10), "RGB", "crop", 0)))
    assert (fitted == GREEN).all()


def test_pad_never_enlarges() -> None:
    small = Image.new("L", (4, 2), 200)
    fitted = np.asarray(fit_image(small, Frame((8, 8), "L", "pad", 7)))
    assert (fitted[3:5, 2:6] == 200).all()
    assert (fitted == 7).sum() == 64 - 8


def test_pad_shrinks_a_large_picture_whole() -> None:
    large = Image.new("RGB", (64, 32), GREEN)
    fitted = np.asarray(fit_image(large, Frame((16, 16), "RGB", "pad", 0)))
    assert (fitted[4:12] == GREEN).all()
    assert (fitted[:4] == 0).all()
    assert (fitted[12:] == 0).all()


def test_exif_orientation_is_applied() -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 8, 4))
    exif = image.getexif()
    exif[0x0112] = 3
    image.info["exif"] = exif.tobytes()
    fitted = np.asarray(fit_image(image, Frame((8, 8), "L", "crop", 0)))
    assert (fitted[:4] == 0).all()
    assert (fitted[4:] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.info["transparency"] = 1
    else:
        image = Image.new(mode, (4, 4), 0)
    assert (np.asarray(fit_image(image, Frame((4, 4), "L", "crop", 99))) == 99).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.array([[0, 257 * 10], [257 * 128, 65535]], np.uint16)
    fitted = fit_image(Image.fromarray(levels), Frame((2, 2), "L", "crop", 0))
    np.testing.assert_array_equal(np.asarray(fitted), [[0, 10], [128, 255]])
