from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unified_latents.training import loop
from unified_latents.training.errors import TrainingError
from unified_latents.training.loop import Terms
from unified_latents.training.order import generator
from unified_latents.training.recipes import Optimiser, Training


class Line(NamedTuple):
    x: Tensor
    y: Tensor


class Fit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, inputs: Line) -> Terms:
        loss = (self.line(inputs.x) - inputs.y).square().mean()
        return Terms(loss, {"loss": loss, "rows": torch.tensor(float(len(inputs.x)))})


class Slope:
    """Learn y = 2 x + 1."""

    def __init__(self, batch: int) -> None:
        torch.manual_seed(0)
        self.objective = Fit()
        self.batch = batch

    def inputs(self, step: int) -> Line:
        x = torch.rand(self.batch, 1, generator=generator(step))
        return Line(x, 2 * x + 1)


OPTIMISER = Optimiser(rate=0.05, warmup=0, clip=10.0)


def run(training: Training, start: int = 0) -> tuple[Slope, list[loop.StepReport]]:
    task = Slope(training.batch)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=training.accumulation)
    trainer = loop.prepare(accelerator, task, training)
    return task, list(loop.train(trainer, task, training, start))


def test_it_learns() -> None:
    _, reports = run(Training(steps=60, batch=8, optimiser=replace(OPTIMISER, rate=0.2)))
    first, last = (float(reports[place].figures["loss"]) for place in (0, -1))
    assert last < first / 30


def test_a_step_is_one_adamw_step_on_the_clipped_gradient() -> None:
    settings = replace(OPTIMISER, clip=0.01)
    task, [report] = run(Training(steps=1, batch=4, optimiser=settings))
    mirror = Slope(4)
    mirror.objective(mirror.inputs(0)).loss.backward()
    parameters = list(mirror.objective.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.01)
    torch.optim.AdamW(parameters, lr=0.05, betas=(0.9, 0.99), weight_decay=0.0).step()
    torch.testing.assert_close(report.grad_norm, norm)
    assert report.rate == 0.05
    for ours, theirs in zip(task.objective.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accumulation_changes_how_and_not_what() -> None:
    whole = Training(steps=5, batch=8, optimiser=OPTIMISER)
    at_once, reports = run(whole)
    in_parts, in_reports = run(replace(whole, accumulation=4))
    for one, other in zip(
        at_once.objective.parameters(), in_parts.objective.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)
    for one_report, other_report in zip(reports, in_reports, strict=True):
        torch.testing.assert_close(one_report.figures["loss"], other_report.figures["loss"])
        torch.testing.assert_close(one_report.grad_norm, other_report.grad_norm)
    assert [float(each[-1].figures["rows"]) for each in (reports, in_reports)] == [8, 2]


def test_steps_are_numbered_from_where_it_starts() -> None:
    _, reports = run(Training(steps=5, batch=2, optimiser=OPTIMISER), start=3)
    assert [report.step for report in reports] == [3, 4]
    assert [report.images for report in reports] == [2, 2]


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    class Three:
        num_processes = 3

    with pytest.raises(TrainingError, match="8 does not split over 3 ranks"):
        loop.prepare(Three(), Slope(8), Training(steps=1, batch=8))


_PROGRAM = """
import resource, sys
import torch
from unified_latents.training.loop import keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    before = faults()
    torch.ones(2**24)
    return faults() - before

if sys.argv[1] == "kept":
    assert keep_freed()
print(min(step() for _ in range(10)))
"""


def _faults(how: str) -> int:
    command = [sys.executable, "-P", "-c", _PROGRAM, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults of glibc's allocator")
def test_steps_of_one_size_come_to_take_no_page_from_the_system() -> None:
    pages = 2**26 // 4096
    assert _faults("kept") < pages / 50
    assert _faults("as it is") > pages / 2
