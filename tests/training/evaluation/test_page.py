from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unified_latents.models.manifest import Defaults
from unified_latents.training.evaluation.evaluate import Metrics
from unified_latents.training.evaluation.page import (
    Pictures,
    Plot,
    markdown,
    reconstructions,
    samples,
    write,
)
from unified_latents.training.measure import Settings
from unified_latents.training.metrics import Figure


def pictures(n: int = 20, channels: int = 1, side: int = 32) -> Pictures:
    """Originals are dark and reconstructions bright by their number; samples by their label."""

    def gray(levels: torch.Tensor) -> torch.Tensor:
        return levels.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, channels, side, side)

    label = torch.arange(9) % 3
    return Pictures(gray(torch.arange(n)), gray(100 + torch.arange(n)), gray(50 + label), label)


@pytest.fixture
def metrics() -> Metrics:
    figures = {
        "bits_per_pixel_32x32": Figure(0.09871, 0.0004, 100, "the bound"),
        "bits_per_image": Figure(101.1, None, 100, "the bound too"),
        "psnr_28x28": Figure(18.6049, 0.02, 100, "of a draw"),
        "agreement": Figure(0.8, 0.01, 50, "named rightly"),
        "agreement_bag": Figure(0.9, 0.01, 5, "named rightly: bag"),
    }
    settings = Settings(Defaults(guidance=1.5))
    return Metrics("fashion", "d" * 64, "fashion-mnist", "t" * 64, settings, "a judge", figures)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_reconstruction_is_right_below_its_original(channels: int) -> None:
    image = np.asarray(reconstructions(pictures(20, channels)))
    step = 64 + 4
    for k in (0, 5, 15):
        x = 4 + k * step + 32
        assert image[4 + 32, x].tolist() == [k] * 3
        assert image[4 + step + 32, x].tolist() == [100 + k] * 3
    second = 4 + 2 * step + 14
    assert image[second + 32, 4 + 32].tolist() == [16] * 3
    assert image[second + step + 32, 4 + 32].tolist() == [116] * 3
    assert (image[second + 32, 4 + 4 * step :] == 255).all()


def test_samples_have_a_row_a_label() -> None:
    image = np.asarray(samples(pictures(), ("bag", "coat", "dress")))
    for row, level in enumerate((50, 51, 52)):
        band = image[4 + row * 68 : 4 + row * 68 + 64]
        assert (band[:, -3 * 68 :] == level).all(-1).sum() == 3 * 64 * 64
        assert (band[:, : -3 * 68] < 255).any(), "the label is written at the left"


def test_labels_without_samples_are_left_out() -> None:
    image = samples(pictures(), ("bag", "coat", "dress", "shirt"))
    assert image.height == samples(pictures(), ("bag", "coat", "dress")).height


def test_large_pictures_are_not_enlarged() -> None:
    assert reconstructions(pictures(2, 3, side=96)).height == 4 + 2 * 100


def test_page_says_every_figure(metrics: Metrics) -> None:
    text = markdown(metrics, with_samples=True)
    for name, figure in metrics.figures.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
        assert figure.definition in line
        assert f"| {figure.n} |" in line
    assert "18.60" in text
    assert "guidance 1.5" in text
    assert metrics.digest in text


def test_headline_has_one_figure_of_each_kind(metrics: Metrics) -> None:
    headline = markdown(metrics, with_samples=False).splitlines()[2]
    assert headline == (
        "**0.09871** bits per pixel (32x32) · **18.60** PSNR in dB (28x28) · **0.8000** agreement"
    )


def test_what_the_page_shows_is_beside_it(metrics: Metrics, tmp_path: Path) -> None:
    write(tmp_path, metrics, pictures(), ("bag", "coat", "dress"))
    text = (tmp_path / "report.md").read_text()
    for name in ("reconstructions.png", "samples.png"):
        assert f"({name})" in text
        assert (tmp_path / name).is_file()


def test_plots_stand_before_the_figures(metrics: Metrics) -> None:
    plots = [Plot("a.png", "First thing", "Says a."), Plot("b.png", "Second", "Says b.")]
    text = markdown(metrics, plots, with_samples=False)
    places = [text.index(each) for each in ("## First thing", "(a.png)", "(b.png)", "## Figures")]
    assert places == sorted(places)
    assert "Says b." in text


@pytest.mark.parametrize(("value", "told"), [(2.34e-5, "0.0000234"), (-4e-4, "-0.0004000")])
def test_small_figures_have_no_exponent(metrics: Metrics, value: float, told: str) -> None:
    small = replace(metrics, figures=metrics.figures | {"tiny": Figure(value, None, 9, "small")})
    assert f"| `tiny` | {told} |" in markdown(small, with_samples=False)
