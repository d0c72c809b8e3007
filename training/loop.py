"""The training loop: a generator that does a step and reports it, and knows nothing else.

The moving average, the log and the snapshots belong to the caller. A step's inputs are drawn
for the whole batch and cut by rows, so that ranks and accumulation change how a step is
computed, never which step it is.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, slice_tensors
from torch import Tensor, nn

from unified_latents.kernels import inductor
from unified_latents.training.errors import TrainingError
from unified_latents.training.order import mix
from unified_latents.training.recipes import Training

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_KEPT = 2**30
"""Bytes: `mallopt`'s limit of what is kept, for a block and for the end of the heap."""


class Terms(NamedTuple):
    """What an objective gives for one batch; every tensor a mean over its rows."""

    loss: Tensor
    figures: dict[str, Tensor]


class Task(Protocol):
    """One stage: what is trained, and the inputs of each step."""

    @property
    def objective(self) -> nn.Module:
        """objective(inputs) → Terms."""

    def inputs(self, step: int) -> Any:
        """The whole batch of step i, a named tuple of CPU tensors; a function of (seed, i)."""


@dataclass(frozen=True)
class StepReport:
    """One finished step. Figures stay tensors, so that reporting does not wait for the device."""

    step: int
    figures: dict[str, Tensor]
    grad_norm: Tensor
    rate: float
    images: int


@dataclass(frozen=True)
class Trainer:
    """The parts of a run that `accelerate` has placed on their devices."""

    accelerator: Accelerator
    objective: nn.Module
    optimiser: torch.optim.Optimizer

    @property
    def network(self) -> nn.Module:
        """The objective without what `accelerate` wrapped around it."""
        return self.accelerator.unwrap_model(self.objective)  # type: ignore[no-any-return]


def lay_out(module: nn.Module) -> None:
    """Channels last, in place, where a weight is a convolution's: 3 to 6 % less a step."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in module.parameters():
        if layout := layouts.get(weight.ndim):
            weight.data = weight.data.contiguous(memory_format=layout)


def keep_freed() -> bool:
    """glibc keeps what a step frees for the next; False where the C library is another.

    By default the system clears every page of a large activation anew, step after step.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    mapped, trimmed = (libc.mallopt(option, _KEPT) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
    return bool(mapped and trimmed)


def prepare(accelerator: Accelerator, task: Task, training: Training) -> Trainer:
    """Place a task on the accelerator's device; `TrainingError` if its batch does not divide."""
    parts = accelerator.num_processes * training.accumulation
    if training.batch % parts:
        raise TrainingError(
            f"a batch of {training.batch} does not split over {accelerator.num_processes} ranks "
            f"and {training.accumulation} accumulation steps"
        )
    settings = training.optimiser
    optimiser = torch.optim.AdamW(
        task.objective.parameters(),
        lr=settings.rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    objective, optimiser = accelerator.prepare(task.objective, optimiser)
    if training.compile:
        objective = torch.compile(objective, options=inductor.OPTIONS)
    return Trainer(accelerator, objective, optimiser)


def train(trainer: Trainer, task: Task, training: Training, start: int) -> Iterator[StepReport]:
    """Steps `start` … `training.steps` − 1."""
    rank = trainer.accelerator.process_index
    trainer.objective.train()
    for step in range(start, training.steps):
        torch.manual_seed(mix(training.seed, "dropout", step, rank))
        rate = training.optimiser.rate_at(step, training.steps)
        for group in trainer.optimiser.param_groups:
            group["lr"] = rate
        inputs = task.inputs(step)
        parts = [_part(trainer, inputs, training, i) for i in range(training.accumulation)]
        figures = {
            name: torch.stack([part.figures[name] for part in parts]).mean()
            for name in parts[0].figures
        }
        yield StepReport(step, figures, parts[-1].grad_norm, rate, training.batch)


class _Part(NamedTuple):
    figures: dict[str, Tensor]
    grad_norm: Tensor


def _part(trainer: Trainer, inputs: Any, training: Training, index: int) -> _Part:
    """Forward and backward of one accumulation part; the last one also moves the weights."""
    accelerator, optimiser = trainer.accelerator, trainer.optimiser
    size = training.batch // (training.accumulation * accelerator.num_processes)
    first = (index * accelerator.num_processes + accelerator.process_index) * size
    rows = slice_tensors(inputs, slice(first, first + size))
    grad_norm = torch.zeros(())
    with accelerator.accumulate(trainer.objective):
        terms: Terms = trainer.objective(send_to_device(rows, accelerator.device))
        accelerator.backward(terms.loss)
        if accelerator.sync_gradients:
            clip = training.optimiser.clip
            grad_norm = accelerator.clip_grad_norm_(trainer.objective.parameters(), clip)
        optimiser.step()
        optimiser.zero_grad()
    figures = {name: value.detach() for name, value in terms.figures.items()}
    return _Part(figures, grad_norm.detach())
