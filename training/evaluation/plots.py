"""The plots of a report, as PNG; the same figures give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from unified_latents.training.errors import TrainingError
from unified_latents.training.metrics import Curve

_DPI = 90
_WIDE, _HIGH = 4.6, 3.2
_SERIES = {
    "prior": "prior",
    "base": "base model, given the label",
    "base_null": "base model, without the label",
}
_COLOURS = ("#1b6ca8", "#d1495b", "#8d96a3", "#2e933c")


class Point(NamedTuple):
    """One checkpoint on the plane of rate and distortion."""

    name: str
    bits_per_pixel: float
    psnr: float
    bits_error: float = 0.0
    psnr_error: float = 0.0
    """Standard errors; 0 where there is none to draw."""


def levels(path: Path, curves: Mapping[str, Curve]) -> None:
    """Bits a bin of λ under prior and base model, and beside them the decoder's loss."""
    canvas, (latent, image) = _canvas(1, 2)
    for colour, name in zip(_COLOURS, _SERIES, strict=False):
        if name in curves:
            total = sum(curves[name].values)
            _steps(latent, curves[name], f"{_SERIES[name]}: {total:.4f}", colour)
    _name(latent, "latent, without KL₁", "λ of z_t", "bits a pixel, by bin")
    latent.legend(fontsize=7)
    total = sum(curves["decoder"].values)
    _steps(image, curves["decoder"], f"decoder, c_lf in it: {total:.3f}", _COLOURS[3])
    _name(image, "image", "λ of x_t", "nats a pixel, by bin")
    image.legend(fontsize=7)
    _save(canvas, path)


def rate_distortion(path: Path, points: Sequence[Point]) -> None:
    """A point a checkpoint, two standard errors each way, joined in the order of their rates.

    The first one is filled.
    """
    canvas, (axes,) = _canvas(1, 1)
    line = sorted(points, key=lambda point: point.bits_per_pixel)
    axes.plot(
        [point.bits_per_pixel for point in line],
        [point.psnr for point in line],
        color=_COLOURS[2],
        linewidth=1,
    )
    for k, point in enumerate(points):
        axes.errorbar(
            point.bits_per_pixel,
            point.psnr,
            xerr=2 * point.bits_error,
            yerr=2 * point.psnr_error,
            fmt="o",
            color=_COLOURS[0],
            markerfacecolor=_COLOURS[0] if k == 0 else "white",
            markersize=4,
            capsize=2,
        )
        place = (point.bits_per_pixel, point.psnr)
        axes.annotate(point.name, place, (6, -9), textcoords="offset points", fontsize=7)
    axes.margins(0.2)
    _name(axes, "rate and distortion", "bits a pixel", "PSNR, dB")
    _save(canvas, path)


def learning(path: Path, logs: Sequence[Path]) -> None:
    """A row a run: bits a pixel and the loss, over the window and on held-out pictures."""
    canvas, axes = _canvas(len(logs), 2)
    for k, log in enumerate(logs):
        records = read_log(log)
        for column, name in enumerate(("bits_per_pixel", "loss")):
            panel = axes[2 * k + column]
            for colour, key in zip(_COLOURS, (name, f"test_{name}"), strict=False):
                told = [(each["step"], each[key]) for each in records if key in each]
                style = "o-" if len(told) < 2 or key.startswith("test_") else "-"
                if told:
                    steps, values = zip(*told, strict=True)
                    panel.plot(steps, values, style, color=colour, label=key, markersize=3)
            _name(panel, log.resolve().parent.name, "step", name.replace("_", " "))
            panel.legend(fontsize=7)
    _save(canvas, path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`. `TrainingError` if it is absent or another thing."""
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is no run's log: {error}") from error
    if not records or not all(isinstance(each, dict) and "step" in each for each in records):
        raise TrainingError(f"{path} is no run's log: its lines tell no step")
    return records


def _canvas(rows: int, columns: int) -> tuple[Canvas, list[Axes]]:
    canvas = Canvas((columns * _WIDE, rows * _HIGH), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, [canvas.add_subplot(rows, columns, k + 1) for k in range(rows * columns)]


def _steps(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    axes.stairs(curve.values, curve.edges, label=label, color=colour, linewidth=1.4)


def _name(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)


def _save(canvas: Canvas, path: Path) -> None:
    """Without the library's version, which would change the bytes."""
    canvas.savefig(path, format="png", metadata={"Software": None})
