"""The queue: BullMQ's, with an index by owner and time, and the marks that every worker obeys."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import bullmq
import msgspec
from redis.asyncio import Redis

from unified_latents.service.jobs.connection import answering
from unified_latents.service.jobs.hooks import Hooks
from unified_latents.service.jobs.job import FINISHED, STARTS, Job, Spec, State, read

NAME = "jobs"
PREFIX = "ul"
CANCEL_CHANNEL = "ul:jobs:cancel"
_COUNTED = ("wait", "prioritized", "delayed", "active", "completed", "failed")
_BACKOFF = {"type": "exponential", "delay": 1000}
_KEPT = 100_000
_MARK = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'ul:cancel', ARGV[1])
return 1
"""
_RENEW = """
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('HDEL', KEYS[1], 'stc', 'defa', 'ul:cancel', 'ul:done', 'ul:hook', 'progress')
redis.call('HSET', KEYS[1], 'ul:since', ARGV[2])
return 1
"""


class UnknownJobError(Exception):
    """There is no such job, or not for this owner."""


class FinishedError(Exception):
    """The job has ended, and what was asked needs one that has not; or the other way round."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"the job is {job.state}")
        self.job = job


class Submitted(NamedTuple):
    """A job, and whether it is new."""

    job: Job
    new: bool


class Page(NamedTuple):
    """Jobs, the newest first, and where the next page begins."""

    jobs: list[Job]
    cursor: str | None


class JobQueue:
    """Jobs by id. Every method fails with `StoreDownError` within three seconds of an outage."""

    def __init__(self, client: Redis, *, keep: float, answers: float, name: str = NAME) -> None:
        """`keep` and `answers`: seconds that a job's record and its answer are kept at its end."""
        self.name = name
        self.client = client
        self.answers = answers
        self._keep = keep
        self.hooks = Hooks(client, f"{PREFIX}:{name}")
        self._queue = bullmq.Queue(name, {"connection": client, "prefix": PREFIX})
        self._scripts = self._queue.backend.scripts
        self._mark = client.register_script(_MARK)
        self._renew = client.register_script(_RENEW)

    async def submit(
        self, identity: str, spec: Spec, priority: int, *, listed: bool = True
    ) -> Submitted:
        """Queue a job, unless one of that id is there and its answer is kept still.

        One that is not `listed` has no place among its owner's, but all else.
        """
        async with answering():
            if spec.webhook:
                await self.hooks.expect(identity)
            job, new = await self._add(identity, spec, priority, listed)
            if not new and self.expired(job):
                await self._queue.remove(identity)
                job, new = await self._add(identity, spec, priority, listed)
            if spec.webhook and job.finished is not None:
                await self.hooks.drop(identity)
        return Submitted(job, new)

    async def read(self, identities: Sequence[str]) -> list[Job]:
        """Each job as one moment shows it, whoever's it is; those that are gone are left out."""
        async with answering():
            return await self._read(identities)

    async def ended_unseen(self) -> AsyncGenerator[Job, None]:
        """Jobs that have ended and of which nobody is told yet."""
        async for batch in self.hooks.expected():
            found = {job.id: job for job in await self.read(batch)}
            for identity in batch:
                job = found.get(identity)
                if job is None:
                    await self.hooks.drop(identity)
                elif job.finished is not None:
                    yield job

    async def get(self, identity: str, owner: str) -> Job:
        """A job of its owner's; `UnknownJobError`."""
        async with answering():
            found = await self._read([identity])
        if not found or found[0].spec.owner != owner:
            raise UnknownJobError(identity)
        return found[0]

    async def knows(self, identity: str, owner: str) -> bool:
        """Whether there is such a job, its answer still kept."""
        try:
            return self.expired(await self.get(identity, owner)) is None
        except UnknownJobError:
            return False

    async def page(self, owner: str, limit: int, before: str | None, prefix: str = "") -> Page:
        """An owner's jobs, the newest first, from the cursor of the page before.

        Of `limit` jobs those are read whose ids begin with `prefix`: fewer, or none, on a page.
        """
        start = f"({before}" if before else "+"
        async with answering():
            found: Any = await self.client.zrange(
                *(self._index(owner), start, "-"), bylex=True, desc=True, offset=0, num=limit
            )
            members: list[str] = found
            identities = [member.partition("-")[2] for member in members]
            jobs = await self._read([each for each in identities if each.startswith(prefix)])
        return Page(jobs, members[-1] if len(members) == limit else None)

    async def cancel(self, identity: str, owner: str) -> Job:
        """Mark a job that has not ended; whoever has it, or takes it, will let it go."""
        job = await self.get(identity, owner)
        if job.state in FINISHED:
            raise FinishedError(job)
        async with answering():
            await self._mark(keys=[self._key(identity)], args=[_now()])
            await self.client.publish(CANCEL_CHANNEL, identity)
        return await self.get(identity, owner)

    async def delete(self, identity: str, owner: str) -> None:
        """Forget a job that has ended and is in no worker's hands; `FinishedError` for others.

        Its answer stays until its time: other jobs may have given the same bytes.
        """
        job = await self.get(identity, owner)
        if job.state not in FINISHED:
            raise FinishedError(job)
        async with answering():
            if not await self._queue.remove(identity):
                raise FinishedError(job)
            await self.client.zrem(self._index(owner), job.cursor)
            await self.client.delete(f"{self._key(identity)}:story")

    async def redrive(self, identity: str) -> Job:
        """Queue a job that failed once more, its attempts forgotten; `FinishedError` for others."""
        async with answering():
            found = await self._read([identity])
            if not found:
                raise UnknownJobError(identity)
            keys = [self._key(identity), self._queue.keys["failed"]]
            if not await self._renew(keys=keys, args=[identity, _now()]):
                raise FinishedError(found[0])
            kept = await bullmq.Job.fromId(self._queue, identity)
            if found[0].spec.webhook:
                await self.hooks.expect(identity)
            await kept.retry("failed", {"resetAttemptsMade": True, "resetAttemptsStarted": True})
            return (await self._read([identity]))[0]

    async def counts(self) -> dict[State, int]:
        """Jobs by state; those that a worker has yet to see as cancelled count as queued."""
        async with answering():
            found = await self._queue.getJobCounts(*_COUNTED)
        queued = found["wait"] + found["prioritized"] + found["delayed"]
        return {
            "queued": queued,
            "running": found["active"],
            "succeeded": found["completed"],
            "failed": found["failed"],
        }

    def expired(self, job: Job) -> float | None:
        """When the answer of a job that has ended was thrown away; None while it is kept."""
        gone = None if job.finished is None else job.finished + self.answers
        return gone if gone is not None and gone < time.time() else None

    async def _add(self, identity: str, spec: Spec, priority: int, listed: bool) -> Submitted:
        now = _now()
        member = f"{now:014d}-{identity}"
        index = self._index(spec.owner)
        if listed:
            async with self.client.pipeline(transaction=True) as pipe:
                pipe.zadd(index, {member: 0})
                pipe.zremrangebylex(index, "-", f"({now - int(self._keep * 1000):014d}")
                await pipe.execute()
        options = self._options(identity, priority, now)
        await self._queue.add(spec.kind, msgspec.to_builtins(spec), options)
        job = (await self._read([identity]))[0]
        if round(job.created * 1000) != now:
            await self.client.zrem(index, member)
        new = round(job.created * 1000) == now and job.spec.digest == spec.digest
        return Submitted(job, new)

    def _options(self, identity: str, priority: int, now: int) -> dict[str, Any]:
        kept = {"age": int(self._keep), "count": _KEPT}
        return {
            "jobId": identity,
            "timestamp": now,
            "priority": priority,
            "attempts": STARTS,
            "backoff": _BACKOFF,
            "removeOnComplete": kept,
            "removeOnFail": kept,
        }

    async def _read(self, identities: Sequence[str]) -> list[Job]:
        """Each job as one moment shows it; those that are gone are left out."""
        states = ("completed", "failed", "delayed", "active", "wait", "paused")
        keys = self._scripts.getKeys([*states, "waiting-children", "prioritized"])
        async with self.client.pipeline(transaction=True) as pipe:
            for identity in identities:
                key = self._key(identity)
                await self._scripts.commands["getStateV2"](
                    keys=keys, args=[identity, key], client=pipe
                )
                pipe.hgetall(key)
                pipe.exists(f"{key}:lock")
            answers = await pipe.execute() if identities else []
        triples = zip(identities, answers[::3], answers[1::3], answers[2::3], strict=True)
        return [
            read(identity, fields, state, locked=bool(locked), now=time.time())
            for identity, state, fields, locked in triples
            if fields.get("data")
        ]

    def _key(self, identity: str) -> str:
        return f"{PREFIX}:{self.name}:{identity}"

    def _index(self, owner: str) -> str:
        return f"{PREFIX}:{self.name}:index:{owner}"


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
