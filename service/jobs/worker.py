"""A worker: takes jobs from the queue for one engine, and gives back what it cannot finish.

A lease that is lost ends the work on its job: somebody else has it. A job that is handed back loses
no attempt. What the worker writes of a job, Redis takes only from the lease's holder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import bullmq
import msgspec
from bullmq.custom_errors import DelayedError, UnrecoverableError
from redis.exceptions import RedisError

from unified_latents.service.jobs import connection
from unified_latents.service.jobs.attempt import (
    Attempt,
    Bench,
    BrokenError,
    RefusedError,
    UnfinishedError,
    overdue,
    state_of,
)
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.job import STALLED, STARTS, Job, Reason, last_seen, read, refusal
from unified_latents.service.jobs.queue import CANCEL_CHANNEL, NAME, PREFIX
from unified_latents.service.metrics import Metrics

_RETRY = 1.0
_LOOK = 0.02
_CLOSING = 10.0
"""Seconds that the end of jobs and connections may take once nothing is computed any more."""

log = logging.getLogger(__name__)

Ended = Callable[[str], Awaitable[None]]
Stop = Literal["cancelled", "drain", "lost", "deadline"]


@dataclass(frozen=True)
class Terms:
    """On which a worker holds jobs; seconds."""

    slots: int
    lease: float
    renewal: float
    stalled: float

    def options(self) -> dict[str, Any]:
        """As BullMQ takes them."""
        return {
            "prefix": PREFIX,
            "autorun": False,
            "concurrency": self.slots,
            "lockDuration": int(self.lease * 1000),
            "lockRenewTime": int(self.renewal * 1000),
            "stalledInterval": int(self.stalled * 1000),
            "maxStalledCount": STARTS - 1,
            "runRetryDelay": int(_RETRY * 1000),
            "drainDelay": 3,
        }


class Worker:
    """Works until `stop`. Use it from one event loop."""

    def __init__(
        self, url: str, bench: Bench, terms: Terms, metrics: Metrics, ended: Ended
    ) -> None:
        """`ended` is told of every job that ends here."""
        self._url = url
        self._on_end = ended
        self._bench = bench
        self._terms = terms
        self._metrics = metrics
        self._client = connection.patient(url)
        self._bull: bullmq.Worker | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; returns at once."""
        self._chores = [asyncio.create_task(self._work()), asyncio.create_task(self._listen())]

    @property
    def busy(self) -> int:
        """Jobs in work."""
        return len(self._bull.jobs) if self._bull is not None else 0

    async def retire(self) -> None:
        """Take nothing more; what is begun goes on."""
        self._stopping = True
        if self._bull is not None:
            await self._bull.pause(do_not_wait_active=True)

    async def stop(self, grace: float) -> None:
        """Take nothing more; what is not done after `grace` seconds is handed back."""
        await self.retire()
        if self._bull is not None and not await self._close(self._bull, grace):
            log.warning("the job store does not answer: leases are left to run out")
        for task in (*self._chores, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._chores, *self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def _close(self, bull: bullmq.Worker, grace: float) -> bool:
        """Whether everything found its end. BullMQ's own `close` would let go of the leases of what
        it waits for, so it comes when there is nothing left to wait for.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while bull.jobs:
                    await asyncio.sleep(_LOOK)
        closing: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(_CLOSING):
                while closing is None or not closing.done():
                    bull.cancelAllJobs("drain")
                    if not bull.jobs and closing is None:
                        closing = asyncio.create_task(bull.close())
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            return False
        return True

    async def _work(self) -> None:
        """BullMQ's loop, again should it ever end by itself."""
        while not self._stopping:
            if self._bench.engine.ready is None:
                await asyncio.sleep(_RETRY / 10)
                continue
            options = {**self._terms.options(), "connection": connection.patient(self._url)}
            self._bull = bull = bullmq.Worker(NAME, self._process, options)
            bull.on("error", lambda error, *_: log.warning("job store: %s", error))
            bull.on("stalled", self._on_stalled)
            bull.on("lockRenewalFailed", self._on_lost)
            bull.on("completed", lambda job, _: self._later(self._ended(job)))
            bull.on("failed", self._on_failed)
            try:
                await bull.run()
            except RedisError as error:
                log.warning("job store: %s", error)
                await asyncio.sleep(_RETRY)

    async def _listen(self) -> None:
        """Cancellations, as they are published; one that is missed is seen at the next write."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with self._client.pubsub() as channel:
                    await channel.subscribe(CANCEL_CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message" and self._bull is not None:
                            self._bull.cancelJob(message["data"], "cancelled")
            await asyncio.sleep(_RETRY)

    async def _process(self, taken: bullmq.Job, token: str, signal: Any) -> dict[str, Any]:
        """BullMQ's call: an outcome, or an exception that says what becomes of the job."""
        if self._stopping:
            return await self._abandon("drain", taken, token)
        job = await self._look(taken.id)
        if job.cancelling or overdue(job) == 0.0:
            return await self._abandon("cancelled" if job.cancelling else "deadline", taken, token)
        if job.attempts > STARTS:
            where = last_seen(job.progress)
            raise UnrecoverableError(f"workers_lost: {STARTS} attempts failed, the last {where}")
        attempt = Attempt(self._bench, job, token)
        work = asyncio.create_task(attempt.run())
        stop = await self._until_done(work, attempt, signal, overdue(job))
        if stop is None:
            return await self._conclude(work, taken, token)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return await self._abandon(stop, taken, token)

    async def _look(self, identity: str) -> Job:
        fields: Any = await self._client.hgetall(f"{PREFIX}:{NAME}:{identity}")
        return read(identity, fields, "active", locked=True, now=time.time())

    async def _until_done(
        self, work: asyncio.Task[Any], attempt: Attempt, signal: Any, limit: float | None
    ) -> Stop | None:
        """None when the work is done, else why it must not go on."""
        told = asyncio.create_task(signal.wait())
        learnt = asyncio.create_task(attempt.changed.wait())
        try:
            await asyncio.wait(
                {work, told, learnt}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            told.cancel()
            learnt.cancel()
        if signal.aborted:
            reason: Stop = signal.reason
            return reason
        if attempt.changed.is_set():
            return "lost" if attempt.held == "lost" else "cancelled"
        return None if work.done() else "deadline"

    async def _conclude(
        self, work: asyncio.Task[Any], taken: bullmq.Job, token: str
    ) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = msgspec.to_builtins(work.result())
            return outcome
        except UnfinishedError:
            if self._bull is not None:  # no engine: what it would take next, it would hand back
                self._later(self._bull.pause(do_not_wait_active=True))
            return await self._abandon("drain", taken, token)
        except RefusedError as error:
            self._metrics.jobs_quarantined.labels(str(error).partition(":")[0]).inc()
            raise UnrecoverableError(str(error)) from error
        except BrokenError:
            self._metrics.job_redeliveries.labels("error").inc()
            raise
        except Exception:
            log.exception("job %s failed", taken.id)
            raise

    async def _abandon(self, stop: Stop, taken: bullmq.Job, token: str) -> dict[str, Any]:
        if stop in ("cancelled", "deadline"):
            with contextlib.suppress(OSError):
                await self._bench.objects.delete(state_of(taken.id))
            raise _final(refusal(cancelled=stop == "cancelled"))
        if stop == "drain":
            await taken.moveToDelayed(int(time.time() * 1000), token)
            self._metrics.job_redeliveries.labels("drain").inc()
            self._later(self._bench.events.write(taken.id, "queued"))
        else:
            self._metrics.lease_lost.inc()
        raise DelayedError(stop)

    async def _ended(self, taken: bullmq.Job) -> None:
        """Wake those who follow the job; they read how it stands from the job itself."""
        with contextlib.suppress(RedisError, OSError):
            await self._bench.events.write(taken.id, "end")
        with contextlib.suppress(StoreDownError, RedisError, OSError):
            await self._on_end(taken.id)

    def _on_failed(self, taken: bullmq.Job, error: Exception) -> None:
        if str(error).startswith(STALLED):
            self._metrics.jobs_quarantined.labels("workers_lost").inc()
        self._later(self._ended(taken))

    def _on_stalled(self, identity: str) -> None:
        log.warning("job %s: its worker is gone", identity)
        self._metrics.job_redeliveries.labels("stalled").inc()

    def _on_lost(self, identities: list[str]) -> None:
        for identity in identities:
            log.warning("job %s: the lease is lost", identity)
            if self._bull is not None:
                self._bull.cancelJob(identity, "lost")

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _final(reason: Reason) -> UnrecoverableError:
    return UnrecoverableError(f"{reason.code}: {reason.detail}")
