"""`ul-train bench`: training steps of the fashion preset beside the machine's best `torch.mm`.

One process, interleaved rounds: each measures the products and then both stages, so that a
machine whose speed drifts drifts for all of them. Utilisation is a ratio within a round.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from unified_latents.models import checkpoint
from unified_latents.training import loop, recipes, runner
from unified_latents.training.data.card import Row, write_set
from unified_latents.training.data.sets import DataSet, load
from unified_latents.training.ema import Ema
from unified_latents.training.flops import PEAK_SIZES, mm_flops_per_second
from unified_latents.training.journal import training_flops
from unified_latents.training.recipes import Training
from unified_latents.training.stage1 import Stage1
from unified_latents.training.stage2 import Stage2

_LABELS = tuple(str(digit) for digit in range(10))
_PICTURES = 256


@dataclass(frozen=True)
class Speed:
    """One stage's rounds."""

    name: str
    images_per_second: tuple[float, ...]
    utilisation: tuple[float, ...]
    """Model FLOP/s over the best `torch.mm` of the same round."""


@dataclass
class _Contender:
    name: str
    steps: Iterator[None]
    batch: int
    flops_per_image: float

    def images_per_second(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            next(self.steps)
        return steps * self.batch / (time.perf_counter() - start)


def bench(rounds: int, steps: int, console: Console, compiled: bool = True) -> list[Speed]:
    """Measure both stages, compiled too if asked, and print the table.

    `rounds` and `steps` (a round) are ≥ 1.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(Path(folder), rounds * steps, compiled)
        for contender in contenders:
            contender.images_per_second(2)
        mm = {size: list[float]() for size in PEAK_SIZES}
        speeds = {contender.name: list[float]() for contender in contenders}
        for _ in range(rounds):
            for size in PEAK_SIZES:
                mm[size].append(max(mm_flops_per_second(size, device) for _ in range(3)))
            for contender in contenders:
                speeds[contender.name].append(contender.images_per_second(steps))
    peaks = [max(values) for values in zip(*mm.values(), strict=True)]
    results = [_speed(contender, speeds[contender.name], peaks) for contender in contenders]
    console.print(_table(mm, results))
    return results


def _speed(contender: _Contender, speeds: list[float], peaks: list[float]) -> Speed:
    ratios = (s * contender.flops_per_image / p for s, p in zip(speeds, peaks, strict=True))
    return Speed(contender.name, tuple(speeds), tuple(ratios))


def _contenders(folder: Path, steps: int, compiled: bool) -> list[_Contender]:
    data = _pictures(folder / "data")
    one = Stage1.build(recipes.fashion(data.card), data)
    one.save(one.objective, folder / "stage1", {})
    start = checkpoint.load(folder / "stage1")
    base = recipes.fashion_base(data.card, one.recipe.model)
    contenders = []
    for compile in (False, True) if compiled else (False,):
        how = ", compiled" if compile else ""
        one = Stage1.build(recipes.fashion(data.card), data)
        two = Stage2.build(base, data, start, folder)
        for name, stage in (("stage 1", one), ("stage 2", two)):
            training = replace(stage.recipe.training, steps=steps + 2, compile=compile)
            contenders.append(_contender(name + how, stage, training, folder))
    return contenders


def _contender(name: str, stage: loop.Task, training: Training, folder: Path) -> _Contender:
    flops = training_flops(stage)
    return _Contender(name, _steps(stage, training, folder), training.batch, flops)


def _steps(stage: loop.Task, training: Training, folder: Path) -> Iterator[None]:
    """Whole training steps, the moving average included."""
    loop.lay_out(stage.objective)
    ema = Ema(stage.objective, training.ema)
    trainer = loop.prepare(runner.accelerate(training, folder), stage, training)
    ema.module.to(trainer.accelerator.device)
    for report in loop.train(trainer, stage, training, 0):
        ema.update(trainer.network, report.step)
        report.grad_norm.item()
        yield


def _pictures(folder: Path) -> DataSet:
    """A set of gray ellipses of the demo's size, compressed like real pictures."""
    about = {
        "name": "ellipses",
        "source": "drawn by the benchmark",
        "licence": "CC0-1.0",
        "image_size": (32, 32),
        "content_size": (32, 32),
        "channels": 1,
        "mode": "L",
        "background": 0,
        "fit": "crop",
        "labels": _LABELS,
    }
    write_set(folder, {"train": _rows(_PICTURES), "test": _rows(16)}, **about)
    return load(folder)


def _rows(count: int) -> Iterator[Row]:
    for i in range(count):
        picture = Image.new("L", (32, 32))
        box = (i % 13, i % 11, 18 + i % 14, 20 + i % 12)
        ImageDraw.Draw(picture).ellipse(box, fill=64 + i % 192)
        yield Row(picture, i % len(_LABELS))


def _table(mm: dict[int, list[float]], speeds: list[Speed]) -> Table:
    table = Table(title=f"fashion, {torch.get_num_threads()} threads, median (least … most)")
    for column in ("", "images/s", "model FLOP utilisation", "GFLOP/s"):
        table.add_column(column, justify="right")
    for size, values in mm.items():
        table.add_row(f"torch.mm {size}³ fp32", "", "", _spread([v / 1e9 for v in values]))
    for speed in speeds:
        shares = _spread([100 * share for share in speed.utilisation], " %")
        table.add_row(speed.name, _spread(list(speed.images_per_second)), shares, "")
    return table


def _spread(values: list[float], unit: str = "") -> str:
    middle = statistics.median(values)
    return f"{middle:.1f}{unit} ({min(values):.1f} … {max(values):.1f})"
