"""A run: the loop's caller, which averages, logs, draws, saves, and stops when asked.

An output folder holds

    recipe.json     what decides the weights: recipe, data, where it started from
    state/step-…/   the last two snapshots, written so that a kill cannot harm them
    log.jsonl       one line a window; tensorboard/ has the same figures
    grids/          sample grids
    checkpoint/     the averaged weights, ready to serve
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor

from unified_latents.training import logs, loop, snapshot
from unified_latents.training.ema import Ema
from unified_latents.training.errors import TrainingError
from unified_latents.training.journal import Journal
from unified_latents.training.loop import StepReport, Trainer
from unified_latents.training.recipes import Training


class Stage(loop.Task, Protocol):
    """A task that can also be shown, measured and saved; `average` is its averaged objective."""

    @property
    def name(self) -> str:
        """For the progress bar."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the weights, as JSON."""

    @property
    def state(self) -> tuple[Any, ...]:
        """What resumes beside the weights: objects with `state_dict` and `load_state_dict`."""

    def follow(self, report: StepReport, average: Any, mean: Callable[[Tensor], Tensor]) -> None:
        """Look at a finished step, and steer; `mean` is over ranks. May raise `TrainingError`."""

    def figures(self) -> dict[str, float]:
        """What is steered, for the log."""

    def grid(self, average: Any, path: Path) -> None:
        """Write a sample grid as PNG."""

    def held_out(self, average: Any) -> dict[str, float]:
        """Figures on the test split."""

    def save(self, average: Any, folder: Path, figures: dict[str, float]) -> None:
        """Write a checkpoint folder, replacing the one there."""


@dataclass(frozen=True)
class Options:
    """What does not decide the weights."""

    out: Path
    snapshot_minutes: float = 10.0

    def __post_init__(self) -> None:
        if not self.snapshot_minutes >= 0:
            raise TrainingError(f"snapshot minutes must be ≥ 0, got {self.snapshot_minutes}")


@dataclass
class Interrupt:
    """Whether SIGINT or SIGTERM came; a second one ends the process at once."""

    asked: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catch SIGINT and SIGTERM for a while."""
    interrupt = Interrupt()
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def accelerate(training: Training, out: Path) -> Accelerator:
    """The accelerator of a run that logs under `out`; what a step frees stays with the process."""
    loop.keep_freed()
    return Accelerator(
        mixed_precision=training.precision,
        gradient_accumulation_steps=training.accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
    )


def claim(out: Path, description: dict[str, Any]) -> None:
    """Write `recipe.json`, or check that the one there says the same.

    `TrainingError` names the fields in which the folder's run differs.
    """
    path = out / "recipe.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(description, indent=2) + "\n")
        partial.replace(path)
        return
    differing = _differences(json.loads(path.read_text()), json.loads(json.dumps(description)))
    if differing:
        raise TrainingError(
            f"{out} holds a run of another recipe ({'; '.join(differing)}): "
            "choose another --out, or repeat its flags to go on with it"
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        # A field that one side lacks came or went with a version, and its default is what ran.
        keys = [key for key in old if key in new]
        found = [_differences(old[key], new[key], f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for lines in found for line in lines]
    return [] if old == new else [f"{name}: {old} there, {new} here"]


@dataclass
class Run:
    """A run's parts, and what is done to them after each step."""

    stage: Stage
    training: Training
    options: Options
    trainer: Trainer
    ema: Ema
    meter: logs.Meter

    @property
    def accelerator(self) -> Accelerator:
        return self.trainer.accelerator

    @property
    def state(self) -> Path:
        return self.options.out / "state"

    def resume(self) -> int:
        """Load the newest snapshot; the number of steps that are done."""
        found = snapshot.snapshots(self.state)
        if not found:
            return 0
        self.accelerator.load_state(str(found[-1]))
        return snapshot.step_of(found[-1])

    def save(self, done: int) -> None:
        """The checkpoint of a step and its snapshot, in this order: a snapshot never lacks one.

        `TrainingError` if a weight is not finite, so that no run goes on from such weights.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.trainer.network.parameters()):
            raise TrainingError(f"a weight stopped being finite before step {done}")
        if self.accelerator.is_main_process:
            metrics = {"step": done, **self.meter.latest}
            self.stage.save(self.ema.module, self.options.out / "checkpoint", metrics)
        final = snapshot.snapshot_folder(self.state, done)
        partial = snapshot.partial_folder(self.state, done)
        if not final.exists():
            self.accelerator.save_state(str(partial))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                snapshot.commit(partial, final)
        if self.accelerator.is_main_process:
            snapshot.prune(self.state)
        self.accelerator.wait_for_everyone()

    def agree(self, wish: bool) -> bool:
        """Whether any rank wishes it: clocks and signals differ between ranks."""
        if self.accelerator.num_processes == 1:
            return wish
        wishes = torch.tensor(float(wish), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wishes, "sum") > 0)

    def mean(self, values: Tensor) -> Tensor:
        """Over ranks."""
        values = values.to(self.accelerator.device)
        return self.accelerator.reduce(values, "mean")  # type: ignore[no-any-return]

    def window(self, done: int) -> dict[str, float]:
        """The means since the last window; `TrainingError` if one is not finite."""
        means = self.meter.read()
        values = self.mean(torch.tensor(list(means.values())))
        if not values.isfinite().all():
            raise TrainingError(
                f"the loss stopped being finite before step {done}: {means}; the last snapshot "
                f"is kept in {self.state}; a lower learning rate helps"
            )
        return dict(zip(means, values.tolist(), strict=True))

    def look(self, done: int) -> dict[str, float]:
        """Draw the sample grid and measure on the test split."""
        if not self.accelerator.is_main_process:
            return {}
        self.stage.grid(self.ema.module, self.options.out / "grids" / f"step-{done:09d}.png")
        return self.stage.held_out(self.ema.module)


def run(stage: Stage, training: Training, options: Options) -> int:
    """Train to the end or to an interrupt, going on from the newest snapshot in `options.out`.

    Returns the number of steps that are done. `TrainingError` if the folder holds another run,
    the batch does not divide, or a loss stops being finite.
    """
    claim(options.out, stage.describe())
    accelerator = accelerate(training, options.out)
    loop.lay_out(stage.objective)
    ema, meter = Ema(stage.objective, training.ema), logs.Meter()
    trainer = loop.prepare(accelerator, stage, training)
    ema.module.to(accelerator.device)
    accelerator.register_for_checkpointing(ema, meter, *stage.state)
    job = Run(stage, training, options, trainer, ema, meter)
    start = job.resume()
    journal = Journal.open(accelerator, stage, training, options.out, start)
    try:
        with interruptible() as interrupt:
            return _steps(job, journal, start, interrupt)
    finally:
        journal.close()


def _steps(job: Run, journal: Journal, start: int, interrupt: Interrupt) -> int:
    """The steps that are left, and what follows each of them."""
    stage, training, done = job.stage, job.training, start
    saved = time.monotonic()
    for report in loop.train(job.trainer, stage, training, start):
        done = report.step + 1
        job.ema.update(job.trainer.network, report.step)
        job.meter.add(report)
        stage.follow(report, job.ema.module, job.mean)
        journal.step(report)
        last = done == training.steps
        if last or done % training.log_every == 0:
            looked = job.look(done) if last or done % training.grid_every == 0 else {}
            job.meter.latest = job.window(done) | stage.figures() | looked
            journal.window(done, report.rate, job.meter.latest)
        due = time.monotonic() - saved >= 60 * job.options.snapshot_minutes
        if job.agree(interrupt.asked):
            break
        if not last and job.agree(due):
            job.save(done)
            saved = time.monotonic()
    if done > start:
        job.save(done)
    return done
