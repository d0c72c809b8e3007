from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unified_latents.training.errors import TrainingError
from unified_latents.training.evaluation.plots import (
    Point,
    learning,
    levels,
    rate_distortion,
    read_log,
)
from unified_latents.training.metrics import Curve

CURVES = {
    "prior": Curve((-1.0, 0.0, 1.0), (0.1, 0.3)),
    "base": Curve((-1.0, 0.0, 1.0), (0.2, 0.2)),
    "decoder": Curve((-2.0, 0.0, 2.0), (0.5, 0.1)),
}


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


def ink(path: Path, colour: tuple[int, int, int]) -> int:
    """Pixels of about one colour."""
    return int((abs(pixels(path) - colour).max(-1) < 40).sum())


BLUE, RED, GREEN = (27, 108, 168), (209, 73, 91), (46, 147, 60)


def test_each_model_has_its_line(tmp_path: Path) -> None:
    levels(tmp_path / "all.png", CURVES)
    assert all(ink(tmp_path / "all.png", colour) > 60 for colour in (BLUE, RED, GREEN))
    levels(tmp_path / "alone.png", {name: CURVES[name] for name in ("prior", "decoder")})
    assert ink(tmp_path / "alone.png", RED) == 0
    assert ink(tmp_path / "alone.png", BLUE) > 60


def test_same_figures_same_bytes_and_few_of_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        levels(tmp_path / name, CURVES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 100_000


def test_rate_and_distortion(tmp_path: Path) -> None:
    rate_distortion(tmp_path / "one.png", [Point("mine", 0.1, 20.0)])
    points = [Point("mine", 0.1, 20.0), Point("more", 0.2, 22.0), Point("less", 0.05, 17.0)]
    rate_distortion(tmp_path / "three.png", points)
    assert ink(tmp_path / "three.png", BLUE) > ink(tmp_path / "one.png", BLUE) > 10


def test_errors_are_drawn_two_each_way(tmp_path: Path) -> None:
    sure = [Point("a", 0.1, 20.0), Point("b", 0.2, 22.0)]
    rate_distortion(tmp_path / "sure.png", sure)
    for name, errors in (("rate", (0.02, 0.0)), ("psnr", (0.0, 0.5)), ("twice", (0.0, 1.0))):
        unsure = [point._replace(bits_error=errors[0], psnr_error=errors[1]) for point in sure]
        rate_distortion(tmp_path / f"{name}.png", unsure)
    inks = {path.stem: ink(path, BLUE) for path in tmp_path.iterdir()}
    assert inks["sure"] < min(inks["rate"], inks["psnr"])
    assert inks["psnr"] < inks["twice"]


def test_learning_curves_have_a_row_a_run(tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.jsonl"
    log.parent.mkdir()
    records = [{"step": k, "loss": 1 / k, "bits_per_pixel": k} for k in range(1, 9)]
    records[-1]["test_loss"] = 0.1
    log.write_text("".join(json.dumps(each) + "\n" for each in records))
    learning(tmp_path / "one.png", [log])
    learning(tmp_path / "two.png", [log, log])
    one, two = (pixels(tmp_path / name).shape for name in ("one.png", "two.png"))
    assert two == (2 * one[0], one[1], 3)
    assert ink(tmp_path / "one.png", RED) > 3


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"loss": 1}\n', None])
def test_what_is_no_log(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "log").write_text(text)
    with pytest.raises(TrainingError, match="no run's log"):
        read_log(tmp_path / "log")
