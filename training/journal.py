"""The run's diary: the bar, `log.jsonl` and TensorBoard, from one place, on the main process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from accelerate import Accelerator

from unified_latents.training.flops import forward_flops, peak_flops
from unified_latents.training.logs import Bar, JsonLines, Stopwatch
from unified_latents.training.loop import StepReport, Task
from unified_latents.training.recipes import Training


class Named(Task, Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Journal:
    accelerator: Accelerator
    lines: JsonLines | None
    """None on every rank but the first."""
    bar: Bar
    stopwatch: Stopwatch

    @classmethod
    def open(
        cls, accelerator: Accelerator, stage: Named, training: Training, out: Path, done: int
    ) -> Journal:
        """Measure the machine, and continue the logs in `out` after `done` steps."""
        bar = Bar(stage.name, training.steps, done, quiet=not accelerator.is_main_process)
        if done:
            left = training.steps - done
            bar.say(f"resuming {out} after step {done}" + ("" if left else ": already finished"))
        if done < training.steps:
            settings = {"tensorboard": {"purge_step": done + 1}}
            accelerator.init_trackers("tensorboard", init_kwargs=settings)
        lines = JsonLines(out / "log.jsonl", done) if accelerator.is_main_process else None
        peak = peak_flops(accelerator.device) * accelerator.num_processes
        return cls(accelerator, lines, bar, Stopwatch(training_flops(stage), peak))

    def step(self, report: StepReport) -> None:
        self.stopwatch.add(report.images)
        self.bar.step(report.step + 1)

    def window(self, done: int, rate: float, figures: dict[str, float]) -> None:
        """One line of the log: the means of a window that ended after `done` steps."""
        clock = self.stopwatch.read()
        self.accelerator.log({**figures, "learning_rate": rate, **clock}, step=done)
        if self.lines is not None:
            self.lines.write({"step": done, **figures, "learning_rate": rate, "clock": clock})
        self.bar.figures(done, {**figures, **clock})

    def close(self) -> None:
        self.bar.close()
        self.accelerator.end_training()
        if self.lines is not None:
            self.lines.close()


def training_flops(task: Task) -> float:
    """Model FLOPs of training on one image: 3 × forward."""
    inputs = task.inputs(0)
    rows = len(inputs[0])
    return 3 * forward_flops(lambda: task.objective(inputs)) / rows
