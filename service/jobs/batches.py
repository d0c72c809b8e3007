"""Batches: a queue of their own, whose jobs put rows into the queue of jobs and wait for them.

What carries a batch out is handed in by whoever can read its rows. It keeps nothing: the id of a
row's job follows from the batch's and the row's place, so a batch that is begun again finds what
is done of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import bullmq
import msgspec
from bullmq.custom_errors import DelayedError, UnrecoverableError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from unified_latents.service.jobs import connection
from unified_latents.service.jobs.events import Events
from unified_latents.service.jobs.job import STARTS, Job, Outcome, Progress, read, refusal
from unified_latents.service.jobs.queue import PREFIX, JobQueue
from unified_latents.service.settings import Settings

NAME = "batches"
_AT_ONCE = 2
"""Batches that one process carries out at a time; each has rows enough for every worker."""
_CLOSING = 10.0

log = logging.getLogger(__name__)

Report = Callable[[Progress], Awaitable[None]]
"""Tells how far a batch is; raises `StoppedError` where it must not go on."""
Drive = Callable[[Job, Report], Awaitable[Outcome]]


class StoppedError(Exception):
    """The batch is cancelled, or somebody else's."""

    def __init__(self, *, cancelled: bool) -> None:
        super().__init__("cancelled" if cancelled else "lost")
        self.cancelled = cancelled


def row_identity(batch: str, row: int) -> str:
    """The id of the job of a row, counted from 0."""
    return "job_" + hashlib.sha256(f"{batch}\0{row}".encode()).hexdigest()[:32]


class Batches:
    """The queue of batches, and, where `begin` was called, who carries them out."""

    def __init__(self, url: str, client: Redis, settings: Settings) -> None:
        self._url = url
        self._lease = settings.job_lease, settings.job_renewal, settings.job_stalled
        keep, answers = settings.job_records, settings.job_answers
        self.queue = JobQueue(client, keep=keep, answers=answers, name=NAME)
        self._lasting = connection.patient(url)
        self._events = Events(self._lasting, f"{PREFIX}:{NAME}", int(answers))
        self._drive: Drive | None = None
        self._bull: bullmq.Worker | None = None
        self._running: asyncio.Task[None] | None = None

    def begin(self, drive: Drive) -> None:
        """Carry batches out from now on."""
        self._drive = drive
        self._running = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """What is not done is handed back whole."""
        if self._bull is not None:
            with contextlib.suppress(TimeoutError, RedisError, OSError):
                async with asyncio.timeout(_CLOSING):
                    await self._bull.pause(do_not_wait_active=True)
                    self._bull.cancelAllJobs("drain")
                    await self._bull.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._lasting.aclose()

    async def _work(self) -> None:
        lease, renewal, stalled = (int(seconds * 1000) for seconds in self._lease)
        options = {
            "prefix": PREFIX,
            "autorun": False,
            "concurrency": _AT_ONCE,
            "lockDuration": lease,
            "lockRenewTime": renewal,
            "stalledInterval": stalled,
            "maxStalledCount": STARTS - 1,
            "connection": connection.patient(self._url),
        }
        self._bull = bullmq.Worker(NAME, self._process, options)
        self._bull.on("error", lambda error, *_: log.warning("batches: %s", error))
        await self._bull.run()

    async def _process(self, taken: bullmq.Job, token: str, signal: Any) -> dict[str, Any]:
        fields: Any = await self._lasting.hgetall(f"{PREFIX}:{NAME}:{taken.id}")
        job = read(taken.id, fields, "active", locked=True, now=time.time())
        if job.cancelling or self._drive is None:
            raise _cancelled()

        async def report(progress: Progress) -> None:
            with contextlib.suppress(RedisError, OSError):
                held = await self._events.progress(job.id, progress, token)
                if held != "held":
                    raise StoppedError(cancelled=held == "cancelled")

        work = asyncio.ensure_future(self._drive(job, report))
        told = asyncio.create_task(signal.wait())
        try:
            await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return await self._hand_back(taken, token)
            outcome: dict[str, Any] = msgspec.to_builtins(work.result())
            return outcome
        except StoppedError as error:
            if error.cancelled:
                raise _cancelled() from error
            raise DelayedError("lost") from error
        finally:
            for task in (work, told):
                task.cancel()
            await asyncio.gather(work, told, return_exceptions=True)

    async def _hand_back(self, taken: bullmq.Job, token: str) -> dict[str, Any]:
        await taken.moveToDelayed(int(time.time() * 1000), token)
        raise DelayedError("drain")


def _cancelled() -> UnrecoverableError:
    reason = refusal(cancelled=True)
    return UnrecoverableError(f"{reason.code}: {reason.detail}")
