"""The step loop when things go wrong, or in time: deadlines, memory, forecasts, and a fuzz."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.service.stepper.test_loop import decode, encode, generate, results, run, tensor
from unified_latents.service.engine.forecast import Key
from unified_latents.service.engine.messages import (
    Accepted,
    Cancel,
    Checkpoint,
    Error,
    Progress,
    Request,
    Result,
    Trajectory,
)
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.telemetry import PRIORITIES, Costs, StageName, Tick
from unified_latents.service.stepper import passes
from unified_latents.service.stepper.attempt import attempt
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.costs import CostModel
from unified_latents.service.stepper.loop import Loop
from unified_latents.service.stepper.work import Job, Sample

TWO = Trajectory(2, "ancestral")
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("m", str(tiny)), "cpu")


def of_type(sent: list[Message], kind: type[Any]) -> list[Any]:
    return [message for message in sent if isinstance(message, kind)]


def errors(sent: list[Message]) -> list[tuple[int, str]]:
    return [(error.id, error.code) for error in of_type(sent, Error)]


def test_a_deadline_is_met_between_two_passes(model: Model) -> None:
    now, sent = [0.0], list[Message]()
    loop = Loop({"m": model}, 16, sent.append, clock=lambda: now[0])
    loop.take(generate(1, timeout=2.0))
    loop.take(generate(2, timeout=9.0))
    loop.tick()
    now[0] = 2.0
    loop.tick()
    assert errors(sent) == [(1, "deadline_exceeded")]
    assert [tick.samples for tick in of_type(sent, Tick)] == [2, 1]
    while loop.busy:
        loop.tick()
    assert set(results(sent)) == {2}


def test_no_pass_is_spent_on_a_deadline_that_nothing_can_keep(model: Model) -> None:
    """Nine passes of a second each: five seconds are too few, ten may do."""
    sent, costs = list[Message](), CostModel("")
    stages: tuple[StageName, ...] = ("base", "decode")
    for stage in stages:
        costs.observe(Key("m", True, stage), 1, 1.0)
    loop = Loop({"m": model}, 16, sent.append, clock=lambda: 0.0, costs=costs)
    loop.take(generate(1, timeout=5.0, guidance=1.0))
    loop.take(generate(2, timeout=10.0, guidance=1.0))
    loop.tick()
    assert errors(sent) == [(1, "deadline_exceeded")]
    assert [tick.samples for tick in of_type(sent, Tick)] == [1]


def test_the_better_class_has_its_result_first(model: Model) -> None:
    crowd = [generate(i, priority=p, decode=None) for i, p in enumerate(reversed(PRIORITIES), 1)]
    sent = run(model, *crowd, max_rows=2)
    assert list(results(sent)) == [3, 2, 1]


def test_memory_that_holds_two_rows_gives_the_same_bytes(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = [generate(i, seed=i, base=TWO, decode=TWO) for i in range(1, 7)]
    undisturbed = results(run(model, *crowd))
    real = passes.decode

    def small(samples: Sequence[Sample]) -> list[passes.Outcome]:
        if len(samples) > 2:
            raise RuntimeError(ALLOCATOR)
        return real(samples)

    monkeypatch.setitem(passes.PASSES, "decode", small)
    sent = run(model, *crowd)
    assert results(sent) == undisturbed
    sizes = [tick.samples for tick in of_type(sent, Tick) if tick.stage == "decode"]
    assert sizes == [6, *[2] * 3]  # found out in the first pass, and remembered
    assert sum((tick.out_of_memory.get("split", 0) for tick in of_type(sent, Tick)), 0) > 0


def test_a_request_that_memory_never_holds_fails_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = passes.base

    def greedy(samples: Sequence[Sample]) -> list[passes.Outcome]:
        if any(sample.job.request.seed == 13 for sample in samples):
            raise MemoryError
        return real(samples)

    monkeypatch.setitem(passes.PASSES, "base", greedy)
    sent = run(model, *(generate(i, seed=i) for i in (11, 12, 13, 14)))
    assert errors(sent) == [(13, "out_of_memory")]
    assert set(results(sent)) == {11, 12, 14}


def test_what_was_measured_becomes_a_forecast(model: Model) -> None:
    """By a clock that moves a second each time it is read: what matters is that it is used."""
    now, sent = [0.0], list[Message]()

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    loop = Loop({"m": model}, 16, sent.append, clock=clock)
    for number in (1, 2):
        loop.take(generate(number, base=TWO, decode=TWO))
        while loop.busy:
            loop.tick()
    first, second = of_type(sent, Accepted)
    assert first.eta is None
    assert second.eta > 0
    ahead = [m.eta for m in of_type(sent, Progress) if m.id == 2]
    assert ahead == sorted(ahead, reverse=True)
    assert ahead[-1] == 0
    stages = {cost.stage for cost in of_type(sent, Costs)[-1].costs}
    assert stages == {"base", "decode"}
    assert of_type(sent, Tick)[-1].drain == 0


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collector: only what nothing refers to any more is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_an_ended_request_frees_its_tensors_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered, cancelled, late or failed; a collector that has much to look after comes seldom."""
    monkeypatch.setattr(logging.getLogger(attempt.__module__), "disabled", True)  # keeps errors
    now, sent = [0.0], list[Message]()
    loop = Loop({"m": model}, 8, sent.append, clock=lambda: now[0])
    loop.take(generate(1, n=2, previews=2, snapshot_every=1))
    loop.take(encode(2, levels=20))
    loop.take(decode(3, torch.zeros(2, 4, 4, 4)))
    while loop.busy:
        loop.tick()
    loop.take(generate(4, n=3))
    loop.take(generate(5, timeout=2.0))
    loop.tick()
    loop.take(Cancel(4))
    now[0] = 3.0
    loop.tick()
    assert set(results(sent)) == {1, 2, 3}
    monkeypatch.setitem(passes.PASSES, "decode", breaks)
    loop.take(decode(6, torch.zeros(2, 4, 4, 4)))
    while loop.busy:
        loop.tick()
    assert errors(sent) == [(5, "deadline_exceeded"), (6, "engine_error")]
    assert not [each for each in gc.get_objects() if type(each) in (Job, Sample)]


def breaks(samples: Sequence[Sample]) -> list[passes.Outcome]:
    raise ValueError(f"{len(samples)} rows")


def test_three_hundred_cancels_leave_no_row_no_job_and_no_bytes(model: Model) -> None:
    """Beside them a request that is never cancelled keeps its bytes."""
    chance, sent = random.Random(5), list[Message]()
    loop = Loop({"m": model}, 8, sent.append)
    steady: dict[str, object] = {"seed": 99, "base": TWO, "decode": TWO}
    alone = results(run(model, generate(1, **steady)))[1].images
    z, held = torch.zeros(2, 4, 4, 4), list[int]()
    for number in range(2, 302):
        requests: list[Request] = [
            generate(number, n=chance.randint(1, 3), previews=chance.randint(0, 3)),
            generate(number, decode=None, priority=chance.choice(PRIORITIES)),
            decode(number, z),
            encode(number, levels=chance.choice([0, 70])),
        ]
        loop.take(chance.choice(requests))
        for _ in range(chance.randint(0, 2)):
            loop.tick()
        loop.take(Cancel(number))
        if number % 60 == 0:
            gc.collect()
            held.append(psutil.Process().memory_info().rss)
            loop.take(generate(10_000 + number, **steady))
            while loop.busy:
                loop.tick()
    assert not loop.busy
    assert loop.empty
    done = [message for message in of_type(sent, Result) if message.id > 10_000]
    assert [tensor(message.images).tolist() for message in done] == [tensor(alone).tolist()] * 5
    assert not errors(sent)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Sample]
    assert held[-1] - held[1] < 8 * 2**20
