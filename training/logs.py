"""What a run tells: a line of JSON and TensorBoard scalars every so many steps, and a bar.

The averages of an unfinished window are part of the state, so a resumed run writes the very
lines that an uninterrupted one does. Clock figures (images/s, utilisation) stand in the same
line under `clock`, apart from what must repeat.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from unified_latents.training.loop import StepReport


class Meter:
    """Means over the steps since the last reading."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.latest: dict[str, float] = {}
        """What the last window and the last look found: the figures of the next checkpoint."""

    def add(self, report: StepReport) -> None:
        for name, value in {**report.figures, "grad_norm": report.grad_norm}.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()
        self.count += 1

    def read(self) -> dict[str, float]:
        """The means; the meter starts again."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "count": self.count, "latest": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.count = dict(state["sums"]), state["count"]
        self.latest = dict(state["latest"])


class JsonLines:
    """An append-only log; opening it at a step forgets the lines of later steps.

    Lines that a killed run wrote after its last snapshot will be written again.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept))
        partial.replace(path)
        self._file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


class Stopwatch:
    """Images a second, and the share of the machine's peak that the model's products make."""

    def __init__(self, flops_per_image: float, peak: float) -> None:
        self._flops_per_image, self._peak = flops_per_image, peak
        self._start, self._images = time.perf_counter(), 0

    def add(self, images: int) -> None:
        self._images += images

    def read(self) -> dict[str, float]:
        """The figures since the last reading."""
        now = time.perf_counter()
        speed = self._images / (now - self._start)
        self._start, self._images = now, 0
        return {
            "images_per_second": round(speed, 1),
            "mfu": round(speed * self._flops_per_image / self._peak, 4),
        }


class Bar:
    """A progress bar on a terminal, a plain line a window elsewhere."""

    def __init__(self, name: str, steps: int, done: int, *, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._name, self._steps = name, steps
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"))
        figures = TextColumn("{task.fields[figures]}")
        self._progress = Progress(
            *columns, figures, TimeRemainingColumn(), console=self._console, disable=not self.live
        )
        self._task: TaskID = self._progress.add_task(name, total=steps, completed=done, figures="")
        self._begin, self._first = time.perf_counter(), done
        self._progress.start()

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._console.is_terminal

    def step(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def figures(self, done: int, figures: dict[str, float]) -> None:
        """Show a window's figures."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self.live:
            self._progress.update(self._task, figures=text)
            return
        left = (time.perf_counter() - self._begin) / (done - self._first) * (self._steps - done)
        self.say(f"{self._name} {done}/{self._steps}  {text}  ETA {left / 60:.1f} min")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
