"""Passes that fail, without a network: a table of passes that the test writes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unified_latents.service.stepper import passes
from unified_latents.service.stepper.attempt import Report, attempt, failure, is_out_of_memory
from unified_latents.service.stepper.passes import Outcome

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"


def samples(*requests: int, look: bool = False) -> list[Any]:
    made = []
    for number in requests:
        job = SimpleNamespace(
            request=SimpleNamespace(id=number), model=SimpleNamespace(graphs=None)
        )
        made.append(SimpleNamespace(job=job, stage="decode", rows=1, look=look))
    return made


def run(monkeypatch: pytest.MonkeyPatch, batch: list[Any], fault: Any) -> tuple[Report, list[int]]:
    """The report, and how many samples each pass was tried with."""
    sizes = []

    def decode(batch: Sequence[Any]) -> list[Outcome]:
        sizes.append(len(batch))
        error = fault(batch)
        if error is not None:
            raise error
        return [Outcome(sample, True, None) for sample in batch]

    monkeypatch.setitem(passes.PASSES, "decode", decode)
    return attempt(batch), sizes


def settled(report: Report) -> list[int]:
    return [outcome.sample.job.request.id for outcome in report.outcomes]


def test_a_clean_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    report, sizes = run(monkeypatch, samples(1, 2), lambda batch: None)
    assert report.clean
    assert (settled(report), sizes, report.rows["conditional"]) == ([1, 2], [2], 2)


def test_memory_for_two_rows_runs_eight_in_four_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = lambda batch: RuntimeError(ALLOCATOR) if len(batch) > 2 else None  # noqa: E731
    report, sizes = run(monkeypatch, samples(*range(8)), fault)
    assert settled(report) == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert report.out_of_memory == {"split": 3}
    assert report.fits == 2
    assert not report.failed
    assert not report.bisected


def test_memory_that_does_not_hold_one_row_fails_that_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault(batch: Sequence[Any]) -> Exception | None:
        return MemoryError() if any(s.job.request.id == 3 for s in batch) else None

    report, _ = run(monkeypatch, samples(1, 2, 3, 3, 4), fault)
    assert settled(report) == [1, 2, 4]
    assert report.failed[3][0] == "out_of_memory"
    assert report.out_of_memory["failed"] == 1
    assert report.out_of_memory["retry"] == 1


def test_a_fault_that_passes_by_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [ValueError("once")]
    report, _ = run(monkeypatch, samples(1, 2, 3), lambda batch: faults.pop() if faults else None)
    assert settled(report) == [1, 2, 3]
    assert report.bisected == {"recovered": 1}


def test_a_culprit_is_found_and_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(batch: Sequence[Any]) -> Exception | None:
        return ValueError("secret") if any(s.job.request.id == 2 for s in batch) else None

    report, _ = run(monkeypatch, samples(1, 2, 3, 2), fault)
    assert settled(report) == [1, 3]
    assert report.failed == {2: ("engine_error", "ValueError")}
    assert report.bisected == {"culprit": 1}


def test_a_look_that_fails_is_only_a_look_less(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [*samples(1), *samples(2, look=True)]
    fault = lambda batch: ValueError() if any(s.look for s in batch) else None  # noqa: E731
    report, _ = run(monkeypatch, batch, fault)
    assert [(o.sample.job.request.id, o.finite) for o in report.outcomes] == [(1, True), (2, False)]
    assert not report.failed


def test_what_counts_as_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError(ALLOCATOR))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert failure(MemoryError("secret")) == ("out_of_memory", "memory does not hold this request")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
