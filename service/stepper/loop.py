"""The step loop: take what has arrived, run one pass, send what came of it, and again.

Between two passes requests join, are cancelled and meet their deadlines; `scheduler` says whose
rows the next pass holds, `attempt` runs it, and a row that is not finite fails its request alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from unified_latents.models.pixels import from_unit
from unified_latents.service.engine.forecast import Key
from unified_latents.service.engine.messages import (
    Accepted,
    Cancel,
    Error,
    ErrorCode,
    Generate,
    ModelCard,
    Preview,
    Progress,
    Request,
)
from unified_latents.service.engine.protocol import Command, Loaded, Message, Unload
from unified_latents.service.engine.telemetry import PRIORITIES, Priority, StageName, Tick
from unified_latents.service.stepper.answer import array, result
from unified_latents.service.stepper.attempt import Report, attempt, failure
from unified_latents.service.stepper.catalogue import Model
from unified_latents.service.stepper.costs import CostModel
from unified_latents.service.stepper.ledger import Ledger
from unified_latents.service.stepper.looks import look, marks
from unified_latents.service.stepper.passes import Outcome
from unified_latents.service.stepper.resume import due, restore, snapshot
from unified_latents.service.stepper.scheduler import Group, Scheduler
from unified_latents.service.stepper.swap import Swap
from unified_latents.service.stepper.work import Job, Sample, following
from unified_latents.service.stepper.work import job as new_job

log = logging.getLogger(__name__)

STAGES: tuple[StageName, ...] = ("encode", "rate", "base", "decode")
Numerics = Callable[[bool], str]
"""The id of strict and of fast mode."""


class Loop:
    """Jobs in, messages out. `send` gets each message; `clock` is monotonic seconds."""

    def __init__(
        self,
        models: Mapping[str, Model],
        max_rows: int,
        send: Callable[[Message], None],
        clock: Callable[[], float] = time.monotonic,
        costs: CostModel | None = None,
        numerics: Numerics = lambda strict: "",
    ) -> None:
        self._models = dict(models)
        self._send = send
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._costs = costs or CostModel("")
        self._scheduler: Scheduler[Sample] = Scheduler(max_rows, self._cost)
        self._numerics = numerics
        self._ledger = Ledger(self._costs, max_rows, clock())

    @property
    def busy(self) -> bool:
        """Whether there is anything to step."""
        return bool(self._jobs)

    @property
    def empty(self) -> bool:
        """Whether neither a request nor a row is left."""
        return not self._jobs and self._scheduler.empty

    def take(self, command: Command) -> None:
        """A new request joins at the next pass; a cancelled one leaves before it."""
        if isinstance(command, Cancel):
            self._forget(command.id)
        elif isinstance(command, Unload):
            gone = self._models.pop(command.name, None)
            self._send(Loaded(command.id, error=None if gone else "no such model here"))
        elif isinstance(command, Request):
            try:
                self._admit(command)
            except Exception as error:
                log.exception("request %d could not start", command.id)
                self._fail(command.id, *failure(error))

    def card(self, name: str) -> ModelCard | None:
        """What is served under a name."""
        return self._models[name].card if name in self._models else None

    def swap(self, swap: Swap) -> None:
        """Serve what was loaded: new requests go there, those on their way keep what they have."""
        card = None
        if swap.model is not None:
            card = swap.model.card
            self._models[card.name] = swap.model
        self._send(Loaded(swap.asked.id, card, swap.error))

    @torch.inference_mode()
    def _admit(self, request: Request) -> None:
        model = self._models.get(request.model)
        if model is None or (isinstance(request, Generate) and model.base is None):
            self._send(Error(request.id, "unknown_model", "no such model here"))
            return
        now = self._clock()
        job = new_job(request, model, now)
        job.marks = marks(request)
        resumed = restore(job, self._numerics(request.strict))
        self._jobs[request.id] = job
        self._scheduler.enter(request.id, job.claim)
        for sample in job.samples:
            if job.outputs[sample.index] is None:
                self._scheduler.add(request.id, sample)
        eta = self._ledger.opened(job, self._jobs.values(), now)
        done, digest = job.done if resumed else 0, model.card.digest
        self._send(Accepted(request.id, job.steps, eta, done, digest))

    @torch.inference_mode()
    def tick(self) -> None:
        """One pass over the next batch."""
        began = self._clock()
        self._expire(began)
        batch = self._scheduler.pick(began)
        if not batch:
            return
        group, owners = batch[0].group, {sample.job.request.id for sample in batch}
        waited = self._arrive(batch, began)
        report = attempt(batch)
        now = self._clock()
        self._account(group, owners, report, now - began)
        touched = self._settle(report)
        self._ledger.refresh(self._jobs.values(), now)
        self._send(self._tick_message(group.stage, report, now - began, waited, now))
        for number, job in touched.items():
            if number in self._jobs:
                eta = self._ledger.eta(job, now)
                self._send(Progress(number, job.done, job.steps, group.stage, eta))
                if due(job):
                    self._send(snapshot(job, self._numerics(job.request.strict)))
                self._conclude(job, now)
        self._measure(group, report, self._clock() - began)
        if news := self._ledger.news(now):
            self._send(news)

    def _expire(self, now: float) -> None:
        """A deadline that is over, or that nothing can keep any more: no pass is spent on it."""
        late = [number for number, job in self._jobs.items() if self._ledger.hopeless(job, now)]
        for number in late:
            self._fail(number, "deadline_exceeded", "the time for this request is over")

    def _arrive(self, batch: Sequence[Sample], now: float) -> dict[Priority, tuple[float, ...]]:
        """Seconds waited by each request that has its first step now."""
        waited: dict[Priority, tuple[float, ...]] = {}
        for job in {sample.job.request.id: sample.job for sample in batch}.values():
            if not job.started:
                job.started = True
                priority = job.claim.priority
                waited[priority] = (*waited.get(priority, ()), now - job.claim.arrived)
        return waited

    def _account(self, group: Group, owners: set[int], report: Report, seconds: float) -> None:
        now = self._clock()
        self._scheduler.ran(group, owners, seconds, now)
        if report.fits is not None:
            self._scheduler.cut(group, report.fits, now)

    def _measure(self, group: Group, report: Report, seconds: float) -> None:
        """What a turn took, all that was told of it included."""
        if report.clean and report.outcomes:
            request = report.outcomes[0].sample.job.request
            key = Key(request.model, request.strict, group.stage)
            self._ledger.observe(key, report.rows.total(), seconds)

    def _cost(self, group: Group, rows: int) -> float | None:
        name = group.model.rpartition("@")[0]
        return self._costs.table.seconds(Key(name, group.strict, group.stage), rows)

    def _settle(self, report: Report) -> dict[int, Job]:
        """Move every sample on; the jobs that got further."""
        touched: dict[int, Job] = {}
        for number, (code, detail) in report.failed.items():
            self._fail(number, code, detail)
        for outcome in report.outcomes:
            job, number = outcome.sample.job, outcome.sample.job.request.id
            if number not in self._jobs:
                continue
            if outcome.sample.look:
                self._show(outcome)
                continue
            job.done += 1
            touched[number] = job
            if not outcome.finite:
                detail = f"a {outcome.sample.stage} row is not finite"
                self._fail(number, "nonfinite", detail)
            else:
                self._go_on(outcome)
        return touched

    def _go_on(self, outcome: Outcome) -> None:
        sample, number = outcome.sample, outcome.sample.job.request.id
        seen = look(sample) if sample.job.marks else None
        if isinstance(seen, Sample):
            self._scheduler.add(number, seen)
        elif seen is not None:
            self._send(Preview(number, sample.index, array(seen)))
        if outcome.output is not None:
            self._leave_stage(sample, outcome.output)

    def _show(self, outcome: Outcome) -> None:
        """The end of a look from the base model, if it came to anything."""
        sample, number = outcome.sample, outcome.sample.job.request.id
        self._scheduler.discard(number, sample)
        if outcome.finite and outcome.output is not None:
            self._send(Preview(number, sample.index, array(from_unit(outcome.output))))

    def _leave_stage(self, sample: Sample, output: Tensor) -> None:
        job, number = sample.job, sample.job.request.id
        self._scheduler.discard(number, sample)
        after = following(sample, output)
        if after is not None:
            job.samples[sample.index] = after
            self._scheduler.add(number, after)
        else:
            job.outputs[sample.index] = output

    def _conclude(self, job: Job, now: float) -> None:
        if job.complete:
            made = result(job)
            self._forget(job.request.id)
            self._ledger.closed(job, now)
            self._send(made)

    def _fail(self, number: int, code: ErrorCode, detail: str) -> None:
        self._forget(number)
        self._send(Error(number, code, detail))

    def _forget(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        self._scheduler.drop(number)
        if job is not None:
            job.samples.clear()  # they point back at it: a ring would keep their tensors

    def _tick_message(
        self,
        stage: StageName,
        report: Report,
        seconds: float,
        waited: dict[Priority, tuple[float, ...]],
        now: float,
    ) -> Tick:
        inflight = dict.fromkeys(STAGES, 0)
        queued = {stage: dict.fromkeys(PRIORITIES, 0) for stage in STAGES}
        for group, size in self._scheduler.sizes().items():
            inflight[group.stage] += size
        for job in self._jobs.values():
            if not job.started:
                queued[job.samples[0].stage][job.claim.priority] += len(job.samples)
        return Tick(
            stage=stage,
            samples=len(report.outcomes),
            conditional_rows=report.rows["conditional"],
            unconditional_rows=report.rows["unconditional"],
            preview_rows=report.rows["preview"],
            seconds=seconds,
            waited=waited,
            nonfinite=sum(not outcome.finite for outcome in report.outcomes),
            inflight=inflight,
            queued=queued,
            drain=self._ledger.drain(now) if self._jobs else 0.0,
            out_of_memory=dict(report.out_of_memory),
            bisected=dict(report.bisected),
            graphs=report.graphs,
        )
