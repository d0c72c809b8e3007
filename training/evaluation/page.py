"""The page of an evaluation: `report.md` and the two pictures that it shows.

`reconstructions.png` has originals above their reconstructions, `samples.png` a row a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unified_latents.training.evaluation.evaluate import Metrics
from unified_latents.training.metrics import Figure

COLUMNS = 16
RECONSTRUCTIONS = 4 * COLUMNS
_SAMPLES = 12
_LABELS = 40
_SIDE = 64
_GAP, _BAND = 4, 18
_PAPER, _INK = 255, 60


@dataclass(frozen=True)
class Pictures:
    """What the page shows."""

    originals: UInt8[Tensor, "n c h w"]
    reconstructions: UInt8[Tensor, "n c h w"]
    samples: UInt8[Tensor, "m c h w"] | None
    sample_labels: Int[Tensor, " m"] | None


class Plot(NamedTuple):
    """A PNG that is already in the page's folder."""

    file: str
    title: str
    caption: str


def write(
    out: Path,
    metrics: Metrics,
    pictures: Pictures,
    labels: Sequence[str],
    plots: Sequence[Plot] = (),
) -> None:
    """Write the pictures and the page into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    reconstructions(pictures).save(out / "reconstructions.png")
    if pictures.samples is not None:
        samples(pictures, labels).save(out / "samples.png")
    text = markdown(metrics, plots, with_samples=pictures.samples is not None)
    (out / "report.md").write_text(text, "utf-8")


def reconstructions(pictures: Pictures) -> Image.Image:
    """Bands of two rows: originals, and right below each its reconstruction."""
    bands = [
        np.concatenate((_row(originals), _row(drawn)))
        for originals, drawn in zip(
            pictures.originals.split(COLUMNS), pictures.reconstructions.split(COLUMNS), strict=True
        )
    ]
    widest = max(band.shape[1] for band in bands)
    edges = ((0, _BAND - _GAP), (0, 0), (0, 0))
    wide = [np.pad(_widen(band, widest), edges, constant_values=_PAPER) for band in bands]
    return Image.fromarray(_frame(np.concatenate(wide)[: _GAP - _BAND]))


def samples(pictures: Pictures, labels: Sequence[str]) -> Image.Image:
    """The first samples of each label, in a row that begins with its name."""
    assert pictures.samples is not None
    assert pictures.sample_labels is not None
    shown = [
        (label, pictures.samples[pictures.sample_labels == index][:_SAMPLES])
        for index, label in enumerate(labels[:_LABELS])
    ]
    rows = [(label, _row(chosen)) for label, chosen in shown if len(chosen)]
    font = ImageFont.load_default(size=_SIDE // 4)
    margin = max(round(font.getlength(label)) for label, _ in rows) + 3 * _GAP
    widest = max(row.shape[1] for _, row in rows)
    body = np.concatenate([_widen(row, widest) for _, row in rows])
    framed = _frame(np.pad(body, ((0, 0), (margin, 0), (0, 0)), constant_values=_PAPER))
    image = Image.fromarray(framed)
    draw = ImageDraw.Draw(image)
    height = rows[0][1].shape[0]
    for k, (label, _) in enumerate(rows):
        place = (margin - _GAP, _GAP + k * height + (height - _GAP) // 2)
        draw.text(place, label, fill=(_INK,) * 3, font=font, anchor="rm")
    return image


def markdown(metrics: Metrics, plots: Sequence[Plot] = (), *, with_samples: bool) -> str:
    """The page's text: pictures and plots, then every figure with error, n and definition."""
    how = metrics.settings.sampling
    parts = [
        f"# {metrics.checkpoint} on {metrics.data}",
        _headline(metrics.figures),
        "## Reconstructions\n\nTest pictures above, and below each what the decoder draws from "
        "its noised latent.\n\n![reconstructions](reconstructions.png)",
    ]
    if with_samples:
        parts.append(
            f"## Samples\n\nThe first of each label, none chosen; guidance {how.guidance:g}, "
            f"{how.base_steps} base steps ({how.base_sampler}), {how.decode_steps} decoder steps "
            f"({how.decode_sampler}).\n\n![samples](samples.png)"
        )
    parts += [
        f"## {plot.title}\n\n{plot.caption}\n\n![{plot.title.lower()}]({plot.file})"
        for plot in plots
    ]
    parts.append("## Figures\n\n" + table(metrics.figures))
    parts.append(
        f"Rate: {metrics.settings.levels} stratified levels a picture. Seed "
        f"{metrics.settings.seed}; noise is keyed by picture. Judge of labels: {metrics.judge}. "
        f"Errors are standard errors.\n\nCheckpoint `{metrics.digest}`, test pictures "
        f"`{metrics.test_sha256}`."
    )
    return "\n\n".join(parts) + "\n"


def _headline(figures: Mapping[str, Figure]) -> str:
    """What one looks for first, in one line; the mean before anything finer."""
    kinds = {"bits_per_pixel_": "bits per pixel ({})", "psnr_": "PSNR in dB ({})"}
    parts = []
    for prefix, words in kinds.items():
        name = next(name for name in figures if name.startswith(prefix))
        value = _number(figures[name].value)
        parts.append(f"**{value}** {words.format(name.removeprefix(prefix))}")
    if "agreement" in figures:
        parts.append(f"**{_number(figures['agreement'].value)}** agreement")
    return " · ".join(parts)


def table(figures: Mapping[str, Figure]) -> str:
    """A row a figure: value, standard error, n, definition."""
    lines = ["| figure | value | ± | n | what it is |", "|---|--:|--:|--:|---|"]
    for name, figure in figures.items():
        error = "" if figure.std_error is None else _number(figure.std_error)
        lines.append(
            f"| `{name}` | {_number(figure.value)} | {error} | {figure.n} | {figure.definition} |"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    """Four significant digits, never an exponent for what people read."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.7f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def _row(pictures: UInt8[Tensor, "n c h w"]) -> NDArray[np.uint8]:
    """Pictures side by side, enlarged by a whole factor, a gap after each and below."""
    zoom = max(1, _SIDE // pictures.shape[-1])
    pixels = rearrange(pictures.cpu(), "n c h w -> n h w c").numpy()
    pixels = pixels.repeat(zoom, 1).repeat(zoom, 2)
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, 3)
    apart = np.pad(pixels, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=_PAPER)
    return rearrange(apart, "n h w c -> h (n w) c")


def _widen(row: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    missing = ((0, 0), (0, width - row.shape[1]), (0, 0))
    return np.pad(row, missing, constant_values=_PAPER)


def _frame(body: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The gap above and to the left of all pictures."""
    return np.pad(body, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=_PAPER)
