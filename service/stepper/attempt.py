"""One pass over a batch that may fail: by halves until the culprit stands alone.

A pass changes its samples only after all of its arithmetic, so what failed together can be tried
again apart, and the others go on from where they were. Memory that runs out is no fault of a
request until it runs out for that request alone.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from unified_latents.service.engine.messages import ErrorCode
from unified_latents.service.engine.telemetry import GraphCounts
from unified_latents.service.stepper.passes import PASSES, Outcome
from unified_latents.service.stepper.work import Sample

log = logging.getLogger(__name__)


@dataclass
class Report:
    """What became of a batch."""

    outcomes: list[Outcome] = field(default_factory=list)
    failed: dict[int, tuple[ErrorCode, str]] = field(default_factory=dict)
    """Requests whose sample failed alone, and how."""
    rows: Counter[str] = field(default_factory=Counter)
    """Evaluated, by kind: conditional, unconditional, preview."""
    out_of_memory: Counter[str] = field(default_factory=Counter)
    """By what was done about it: split, retry, failed."""
    bisected: Counter[str] = field(default_factory=Counter)
    """Batches that raised, by outcome: recovered, or culprit."""
    graphs: GraphCounts = field(default_factory=GraphCounts)
    fits: int | None = None
    """Rows that memory held, where it did not hold the whole batch."""

    @property
    def clean(self) -> bool:
        """Whether the batch went through in one piece, and took what it will take again."""
        once = self.graphs.recorded
        return not (self.failed or self.out_of_memory or self.bisected or once)


def attempt(batch: Sequence[Sample]) -> Report:
    """Every sample of the batch has an outcome, or its request has failed."""
    report = Report()
    _run(batch, report)
    if report.bisected:
        culprit = any(code == "engine_error" for code, _ in report.failed.values())
        report.bisected = Counter({"culprit" if culprit else "recovered": 1})
    if graphs := batch[0].job.model.graphs:
        report.graphs = graphs.taken()
    return report


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator gave up; torch's for the CPU raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def failure(error: Exception) -> tuple[ErrorCode, str]:
    """Code and detail for a request under which `error` was raised; no input in it."""
    if is_out_of_memory(error):
        return "out_of_memory", "memory does not hold this request"
    return "engine_error", type(error).__name__


def _run(batch: Sequence[Sample], report: Report, *, again: bool = False) -> None:
    batch = [sample for sample in batch if sample.job.request.id not in report.failed]
    if not batch:
        return
    kinds = _kinds(batch)
    outcomes = _pass(batch)
    if not isinstance(outcomes, Exception):
        report.rows += kinds
        report.outcomes += outcomes
        if report.fits is not None:
            report.fits = max(report.fits, kinds.total())
        return
    try:
        _recover(batch, outcomes, report, again=again)
    finally:
        del outcomes  # its traceback leads back to this frame: a ring that would hold the batch


def _recover(batch: Sequence[Sample], error: Exception, report: Report, *, again: bool) -> None:
    starved = is_out_of_memory(error)
    if len(batch) > 1:
        _split(batch, report, starved=starved)
    elif not again:
        report.out_of_memory.update({"retry": 1} if starved else {})
        _run(batch, report, again=True)
    else:
        _give_up(batch[0], error, report)


def _pass(batch: Sequence[Sample]) -> list[Outcome] | Exception:
    """What the pass gave or raised, which then holds none of the pass's memory."""
    rows = _kinds(batch)
    try:
        return PASSES[batch[0].stage](batch)
    except Exception as error:
        if not is_out_of_memory(error):
            return error
        starved = error.with_traceback(None)
    log.warning("memory does not hold %d rows (%s)", rows.total(), batch[0].stage)
    gc.collect()
    return starved


def _kinds(batch: Sequence[Sample]) -> Counter[str]:
    looks = sum(sample.look for sample in batch)
    second = sum(sample.rows - 1 for sample in batch)
    return Counter(conditional=len(batch) - looks, unconditional=second, preview=looks)


def _split(batch: Sequence[Sample], report: Report, *, starved: bool) -> None:
    half = len(batch) // 2
    if starved:
        report.out_of_memory["split"] += 1
        report.fits = report.fits or 1
    else:
        report.bisected["raised"] += 1
    _run(batch[:half], report)
    _run(batch[half:], report)


def _give_up(sample: Sample, error: Exception, report: Report) -> None:
    """The request fails; a look that fails is only a look less."""
    if is_out_of_memory(error):
        report.out_of_memory["failed"] += 1
    if sample.look:
        report.outcomes.append(Outcome(sample, False, None))
        return
    log.error("request %d failed alone", sample.job.request.id, exc_info=error)
    report.failed[sample.job.request.id] = failure(error)
