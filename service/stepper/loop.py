"""The step loop: take what has arrived, run one pass, send what came of it, and again.

A pass that raises is tried again in halves until the culprit stands alone, and once more there; a
row that is not finite fails alone. Either way the others go on from where they were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unified_latents.models.pixels import from_unit
from unified_latents.service.engine.messages import (
    Accepted,
    Array,
    Bitrate,
    Cancel,
    Command,
    Encode,
    Error,
    Generate,
    Message,
    Progress,
    Request,
    Result,
)
from unified_latents.service.engine.telemetry import PRIORITIES, Priority, StageName, Tick
from unified_latents.service.stepper.catalogue import Model
from unified_latents.service.stepper.passes import PASSES, Outcome, finished_latent
from unified_latents.service.stepper.pool import Pool
from unified_latents.service.stepper.work import Job, Sample, following
from unified_latents.service.stepper.work import job as new_job

log = logging.getLogger(__name__)

STAGES: tuple[StageName, ...] = ("encode", "rate", "base", "decode")


@dataclass
class _PassReport:
    """What one tick adds up while it runs."""

    conditional: int = 0
    unconditional: int = 0
    nonfinite: int = 0
    waited: dict[Priority, tuple[float, ...]] = field(default_factory=dict)
    touched: dict[int, Job] = field(default_factory=dict)


class Loop:
    """Jobs in, messages out. `send` gets each message; `clock` is monotonic seconds."""

    def __init__(
        self,
        models: Mapping[str, Model],
        max_rows: int,
        send: Callable[[Message], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._max_rows = max_rows
        self._send = send
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._pool: Pool[Sample] = Pool()

    @property
    def busy(self) -> bool:
        """Whether there is anything to step."""
        return bool(self._jobs)

    def take(self, command: Command) -> None:
        """A new request joins at the next pass; a cancelled one leaves before it."""
        if isinstance(command, Cancel):
            self._jobs.pop(command.id, None)
            self._pool.drop(command.id)
        elif isinstance(command, Request):
            try:
                self._admit(command)
            except Exception as error:
                log.exception("request %d could not start", command.id)
                self._fail(command.id, error)

    @torch.inference_mode()
    def _admit(self, request: Request) -> None:
        model = self._models.get(request.model)
        if model is None or (isinstance(request, Generate) and model.base is None):
            self._send(Error(request.id, "unknown_model", "no such model here"))
            return
        job = new_job(request, model, self._clock())
        self._jobs[request.id] = job
        for sample in job.samples:
            self._pool.add(request.id, sample)
        self._send(Accepted(request.id, job.steps))

    @torch.inference_mode()
    def tick(self) -> None:
        """One pass over the next batch."""
        batch = self._pool.pick(self._max_rows)
        if not batch:
            return
        began = self._clock()
        report = _PassReport()
        self._arrive(batch, began, report)
        self._run(batch, report)
        self._send(self._tick_message(batch, began, report))
        for number, job in report.touched.items():
            if number in self._jobs:
                self._send(Progress(number, job.done, job.steps, batch[0].stage))
                self._conclude(job)

    def _arrive(self, batch: Sequence[Sample], now: float, report: _PassReport) -> None:
        for sample in batch:
            if not sample.job.started:
                sample.job.started = True
                priority = sample.job.request.priority
                wait = now - sample.job.arrived
                report.waited[priority] = (*report.waited.get(priority, ()), wait)

    def _run(self, batch: Sequence[Sample], report: _PassReport, *, again: bool = False) -> None:
        """The pass; by halves where it raises, and `again` where it raised for one alone."""
        if not batch:
            return
        unconditional = sum(sample.rows - 1 for sample in batch)
        try:
            outcomes = PASSES[batch[0].stage](batch)
        except Exception as error:
            if len(batch) == 1 and not again:
                self._run(batch, report, again=True)
                return
            if len(batch) == 1:
                log.exception("request %d failed alone", batch[0].job.request.id)
                self._fail(batch[0].job.request.id, error)
                return
            half = len(batch) // 2
            self._run(batch[:half], report)
            self._run([s for s in batch[half:] if s.job.request.id in self._jobs], report)
            return
        report.conditional += len(batch)
        report.unconditional += unconditional
        for outcome in outcomes:
            self._settle(outcome, report)

    def _settle(self, outcome: Outcome, report: _PassReport) -> None:
        sample = outcome.sample
        job, number = sample.job, sample.job.request.id
        if number not in self._jobs:
            return
        job.done += 1
        report.touched[number] = job
        if not outcome.finite:
            report.nonfinite += 1
            self._drop(number, Error(number, "nonfinite", f"a {sample.stage} row is not finite"))
        elif outcome.output is not None:
            self._leave_stage(sample, outcome.output)

    def _leave_stage(self, sample: Sample, output: Tensor) -> None:
        job, number = sample.job, sample.job.request.id
        self._pool.discard(number, sample)
        after = following(sample, output)
        if after is not None:
            self._pool.add(number, after)
        else:
            job.outputs[sample.index] = output

    def _conclude(self, job: Job) -> None:
        if job.complete:
            del self._jobs[job.request.id]
            self._send(_result(job))

    def _fail(self, number: int, error: Exception) -> None:
        self._drop(number, Error(number, "engine_error", type(error).__name__))

    def _drop(self, number: int, message: Error) -> None:
        self._jobs.pop(number, None)
        self._pool.drop(number)
        self._send(message)

    def _tick_message(self, batch: Sequence[Sample], began: float, report: _PassReport) -> Tick:
        inflight = dict.fromkeys(STAGES, 0)
        queued = {stage: dict.fromkeys(PRIORITIES, 0) for stage in STAGES}
        for group, size in self._pool.sizes().items():
            inflight[group.stage] += size
        for job in self._jobs.values():
            if not job.started:
                queued[job.samples[0].stage][job.request.priority] += len(job.samples)
        return Tick(
            stage=batch[0].stage,
            samples=len(batch),
            conditional_rows=report.conditional,
            unconditional_rows=report.unconditional,
            seconds=self._clock() - began,
            waited=report.waited,
            nonfinite=report.nonfinite,
            inflight=inflight,
            queued=queued,
        )


def _result(job: Job) -> Result:
    number, request = job.request.id, job.request
    outputs = torch.stack([output for output in job.outputs if output is not None])
    if isinstance(request, Encode):
        outputs = torch.stack([finished_latent(job.samples[0], outputs[0])])
        bitrate = Bitrate(*job.bitrate) if job.bitrate else None
        return Result(number, latents=_array(outputs), bitrate=bitrate)
    if isinstance(request, Generate) and request.decode is None:
        return Result(number, latents=_array(outputs))
    return Result(number, images=_array(from_unit(outputs)))


def _array(x: Tensor) -> Array:
    values = x.cpu().contiguous().numpy()
    kind = "uint8" if values.dtype == np.uint8 else "float32"
    return Array(tuple(values.shape), kind, values.tobytes())  # type: ignore[arg-type]
