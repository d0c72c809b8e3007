"""Forecasts held against what then happens, on a machine that is only a cost and a clock."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from tests.service.engine.test_client import generate
from unified_latents.service.engine.forecast import Key, legs
from unified_latents.service.engine.messages import Generate, Trajectory
from unified_latents.service.engine.telemetry import StageName
from unified_latents.service.stepper.costs import CostModel
from unified_latents.service.stepper.ledger import Ledger
from unified_latents.service.stepper.scheduler import Claim, Group, Scheduler
from unified_latents.service.stepper.work import Job

CAPACITY = 16
Cost = Callable[[int], float]


@dataclass(eq=False)
class Row:
    """A sample of a job in one stage."""

    job: Job
    stage: StageName
    rows: int
    left: int

    @property
    def group(self) -> Group:
        return Group(self.stage, "m", True)


class Machine:
    """Runs requests on a clock of its own; `costs[stage]` gives a pass's seconds by its rows."""

    def __init__(self, costs: dict[str, Cost]) -> None:
        self.now = 0.0
        self._costs = costs
        self._jobs: dict[int, Job] = {}
        self._scheduler: Scheduler[Row] = Scheduler(CAPACITY)
        self._ledger = Ledger(CostModel(""), CAPACITY, 0.0)
        self.forecasts: list[tuple[float, float]] = []
        """Of each request that has ended: what was forecast, and what it took."""
        self._said: dict[int, float | None] = {}

    def arrive(self, request: Generate) -> None:
        job = Job(request, cast(Any, None), Claim(request.priority, self.now), 0, [])
        job.steps = request.n * sum(leg.passes for leg in legs(request))
        self._jobs[request.id] = job
        self._scheduler.enter(request.id, job.claim)
        for _ in range(request.n):
            self._enter(job, 0)
        self._said[request.id] = self._ledger.opened(job, self._jobs.values(), self.now)

    def _enter(self, job: Job, stage: int) -> None:
        leg = legs(job.request)[stage]
        self._scheduler.add(job.request.id, Row(job, leg.stage, round(leg.rows), leg.passes))

    def step(self) -> bool:
        batch = self._scheduler.pick(self.now)
        if not batch:
            return False
        rows, group = sum(row.rows for row in batch), batch[0].group
        seconds = self._costs[group.stage](rows)
        self.now += seconds
        owners = {row.job.request.id for row in batch}
        self._scheduler.ran(group, owners, seconds, self.now)
        self._ledger.observe(Key("m", True, group.stage), rows, seconds)
        for row in batch:
            self._move(row)
        self._ledger.refresh(self._jobs.values(), self.now)
        return True

    def _move(self, row: Row) -> None:
        job, number = row.job, row.job.request.id
        job.done += 1
        row.left -= 1
        if row.left == 0:
            self._scheduler.discard(number, row)
            stages = [leg.stage for leg in legs(job.request)]
            if stages.index(row.stage) + 1 < len(stages):
                self._enter(job, stages.index(row.stage) + 1)
        if job.done == job.steps:
            self._scheduler.drop(number)
            del self._jobs[number]
            self._ledger.closed(job, self.now)
            said = self._said.pop(number)
            if said is not None:
                self.forecasts.append((said, self.now - job.claim.arrived))


def request(number: int, chance: random.Random) -> Generate:
    """10 to 100 steps, one to four samples, with guidance or without."""
    base, decode = (Trajectory(chance.randint(5, 50), "ddim") for _ in range(2))
    guidance = chance.choice([1.0, 2.0])
    n = chance.randint(1, 4)
    fields = generate(n=n, base=base, decode=decode, guidance=guidance)
    return Generate(number, *(getattr(fields, name) for name in fields.__struct_fields__[1:]))


def played(costs: dict[str, Cost], load: float) -> list[float]:
    """actual / forecast of requests that arrive at random, after a hundred to learn from."""
    chance, machine = random.Random(3), Machine(costs)
    each = 2.5 * 27.5 * (1.5 * costs["base"](CAPACITY) + costs["decode"](CAPACITY)) / CAPACITY
    arrival = 0.0
    for number in range(260):
        arrival += chance.expovariate(load / each)
        while machine.now < arrival and machine.step():
            pass
        machine.now = max(machine.now, arrival)
        machine.arrive(request(number, chance))
    while machine.step():
        pass
    return [actual / said for said, actual in machine.forecasts[100:] if said > 0]


LINEAR: dict[str, Cost] = {"base": lambda n: 0.002 + 0.010 * n, "decode": lambda n: 0.03 * n}
FLAT: dict[str, Cost] = {"base": lambda n: 0.02 + 0.0005 * n, "decode": lambda n: 0.05 + 0.001 * n}


@pytest.mark.parametrize("load", [0.3, 0.9])
@pytest.mark.parametrize("costs", [LINEAR, FLAT], ids=["linear", "flat"])
def test_forecasts_are_right_in_the_middle(costs: dict[str, Cost], load: float) -> None:
    """Half of the requests take longer than was said, and half less, within a fifth."""
    ratios = played(costs, load)
    assert len(ratios) > 150
    assert 0.8 < statistics.median(ratios) < 1.25
    assert statistics.quantiles(ratios, n=10)[-1] < 2
