"""What is left to do, and when it will be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unified_latents.service.engine.deadlines import Pace, Way, rest, way
from unified_latents.service.engine.forecast import Forecast, Key
from unified_latents.service.engine.telemetry import Costs
from unified_latents.service.stepper.costs import CostModel
from unified_latents.service.stepper.work import Job

_FORECAST_EVERY = 0.25
"""Seconds for which a forecast of everything stands."""
_HURRY = 1.3
"""How many times the rest of its passes, each shared, a request is given before its deadline."""
_HOPE = 0.8
"""Passes may turn out so much quicker than what was measured, but not more."""
_TELL_EVERY = 0.5
_SAVE_EVERY = 20.0


class Ledger:
    """The forecasts of a loop whose passes hold `capacity` rows; `now` is the loop's clock."""

    def __init__(self, costs: CostModel, capacity: int, now: float) -> None:
        self._costs = costs
        self._capacity = capacity
        self._forecast = Forecast(costs.table, capacity)
        self._forecast_at = self._told_at = self._saved_at = now
        self._drained_at = now

    def observe(self, key: Key, rows: int, seconds: float) -> None:
        """A pass that went through in one piece."""
        self._costs.observe(key, rows, seconds)

    def opened(self, job: Job, jobs: Iterable[Job], now: float) -> float | None:
        """A job has come, and is among `jobs`: seconds until it is done, if that can be told."""
        self._look_ahead(jobs, now)
        eta = self.eta(job, now)
        job.promised = None if eta is None else eta / self._costs.bias
        return eta

    def closed(self, job: Job, now: float) -> None:
        """A job has its result."""
        if job.promised is not None:
            self._costs.learn(job.promised, now - job.claim.arrived)

    def refresh(self, jobs: Iterable[Job], now: float) -> None:
        """Forecast everything anew, if the last time is long enough ago."""
        if now - self._forecast_at >= _FORECAST_EVERY:
            self._look_ahead(jobs, now)

    def eta(self, job: Job, now: float) -> float | None:
        """Seconds until a job is done, by the latest forecast."""
        return None if job.ends is None else max(0.0, job.ends - now)

    def hopeless(self, job: Job, now: float) -> bool:
        """Whether a job would miss its deadline even with the engine to itself."""
        deadline = job.claim.deadline
        if deadline is None or now < min(deadline, job.last):
            return False
        return now >= deadline or now >= self._last(deadline, _left(job))

    def drain(self, now: float) -> float:
        """Seconds until all jobs are done, by the latest forecast."""
        return max(0.0, self._drained_at - now)

    def news(self, now: float) -> Costs | None:
        """What the parent should hear of costs, now and then; they are written down as well."""
        if now - self._saved_at >= _SAVE_EVERY:
            self._saved_at = now
            self._costs.save()
        if now - self._told_at < _TELL_EVERY:
            return None
        self._told_at = now
        return self._costs.message

    def _look_ahead(self, jobs: Iterable[Job], now: float) -> None:
        self._forecast_at = now
        jobs, work = list(jobs), []
        self._hurry(jobs)
        for job in jobs:
            job.whole = job.whole or self._forecast.load(job.request)
            if job.left is not None:
                work.append((job, job.left))
        ends = self._forecast.etas([(job.request, left) for job, left in work], self._costs.bias)
        for (job, _), seconds in zip(work, ends, strict=True):
            job.ends = now + seconds
        self._drained_at = now + max(ends, default=0.0)

    def _hurry(self, jobs: Sequence[Job]) -> None:
        """When each that has a deadline must begin to be in every pass, and when it is too late."""
        ways = [_left(job) for job in jobs]
        pace = Pace(self._costs.table, self._capacity, ways)
        for job, left in zip(jobs, ways, strict=True):
            if job.claim.deadline is not None:
                needs = _HURRY * pace.chain(left) + _FORECAST_EVERY
                job.claim.hurry = job.claim.deadline - needs
                job.last = self._last(job.claim.deadline, left)

    def _last(self, deadline: float, left: Way) -> float:
        """When what is left must begin, with the engine to itself."""
        each = (n * (self._costs.table.seconds(*part) or 0.0) for part, n in left.passes)
        return deadline - _HOPE * sum(each)


def _left(job: Job) -> Way:
    job.way = job.way or way(job.request)
    return rest(job.way, job.done / job.steps)
