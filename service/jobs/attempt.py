"""One attempt at a job: from its call to the answer in the object store.

Nothing here knows of BullMQ. An attempt ends with an `Outcome`, or with one of three exceptions
that say what shall become of the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from redis.exceptions import RedisError

from unified_latents.service.engine.messages import (
    Accepted,
    Encode,
    Error,
    Ready,
    Request,
    Result,
    Snapshot,
)
from unified_latents.service.engine.messages import Progress as Steps
from unified_latents.service.engine.seam import Engine, EngineError, NotReadyError
from unified_latents.service.jobs.calls import Answer, Call
from unified_latents.service.jobs.events import Events, Held
from unified_latents.service.jobs.job import Job, Outcome, Progress, last_seen
from unified_latents.service.jobs.objects import CorruptObjectError, MissingObjectError, Objects
from unified_latents.service.metrics import Metrics

_PAUSE = 0.2
"""Seconds between two looks at an engine that is busy, and between two writes of progress."""
_FINAL = {"nonfinite", "unknown_model", "deadline_exceeded"}
"""What the engine says of a request that it would say again."""

Render = Callable[[Call, Ready, Result], Answer]


class RefusedError(Exception):
    """The job has failed for good: `code: detail`."""


class BrokenError(Exception):
    """This attempt has failed; another may not: `code: detail`."""


class UnfinishedError(Exception):
    """The engine goes away: the job is to be handed back whole."""


class Mark(msgspec.Struct, frozen=True):
    """What is left beside the queue of a job that is done, for a store that forgot its end."""

    since: float
    outcome: Outcome


@dataclass(frozen=True)
class Bench:
    """What an attempt works with."""

    engine: Engine
    objects: Objects
    events: Events
    render: Render
    metrics: Metrics
    snapshots: int = 0
    """Sample steps between two snapshots; 0: none."""


class Attempt:
    """A job that a worker holds the lease of."""

    def __init__(self, bench: Bench, job: Job, token: str) -> None:
        self._bench = bench
        self._job = job
        self._token = token
        self._progress = job.progress
        self._snapshot: Snapshot | None = None
        self._news = asyncio.Event()
        self._writing: list[asyncio.Future[None]] = []
        self.held: Held = "held"
        self.changed = asyncio.Event()
        """Set when the lease is lost, or the job cancelled: `held` says which."""

    async def run(self) -> Outcome:
        """The outcome; at once where an earlier attempt got as far as that."""
        if (kept := await self._kept()) is not None:
            return kept
        call = await self._call()
        request = await self._resumed(call.message)
        ready = self._bench.engine.ready  # as it is now, whatever is swapped in meanwhile
        telling = asyncio.create_task(self._report())
        try:
            result = await self._result(request)
        finally:
            telling.cancel()
            await asyncio.gather(telling, *self._writing, return_exceptions=True)
        if ready is None:
            raise UnfinishedError("the engine is gone")
        answer = await asyncio.to_thread(self._bench.render, call, ready, result)
        return await self._keep(answer)

    async def _kept(self) -> Outcome | None:
        try:
            mark = msgspec.json.decode(await self._bench.objects.read(self._name), type=Mark)
        except (MissingObjectError, msgspec.DecodeError):
            return None
        return mark.outcome if mark.since == self._job.since else None

    async def _keep(self, answer: Answer) -> Outcome:
        objects = self._bench.objects
        digest = await objects.put("answers", answer.body)
        outcome = Outcome(digest, len(answer.body), answer.media_type, answer.headers)
        if await self._bench.events.progress(self._job.id, self._progress, self._token) == "lost":
            self._learn("lost")
        else:
            mark = Mark(self._job.since, outcome)
            await objects.write(self._name, msgspec.json.encode(mark))
            await objects.delete(state_of(self._job.id))
        return outcome

    async def _call(self) -> Call:
        spec = self._job.spec
        if spec.call is not None:
            return spec.call
        try:
            return msgspec.msgpack.decode(
                await self._bench.objects.get("inputs", spec.input or ""), type=Call
            )
        except MissingObjectError as error:
            raise RefusedError("input_expired: the job's input is not kept any more") from error
        except (CorruptObjectError, msgspec.DecodeError) as error:
            raise RefusedError("input_damaged: the job's input is damaged") from error

    async def _resumed(self, request: Request) -> Request:
        """The request, to go on where the last attempt was seen; the engine says if it fits."""
        if isinstance(request, Encode) or not self._bench.snapshots:
            return request
        saved: Snapshot | None = None
        with contextlib.suppress(MissingObjectError, msgspec.DecodeError):
            data = await self._bench.objects.read(state_of(self._job.id))
            saved = msgspec.msgpack.decode(data, type=Snapshot)
        return msgspec.structs.replace(request, snapshot_every=self._bench.snapshots, resume=saved)

    async def _result(self, request: Request) -> Result:
        while True:
            try:
                return await self._once(request)
            except NotReadyError as error:
                if error.code != "busy" and self._bench.engine.status.state in (
                    "failed",
                    "stopped",
                ):
                    raise UnfinishedError(error.detail) from error
                await asyncio.sleep(_PAUSE)

    async def _once(self, request: Request) -> Result:
        async with aclosing(self._bench.engine.submit(request)) as events:
            async for event in events:
                match event:
                    case Accepted():
                        await self._begun(event)
                    case Snapshot():
                        self._snapshot = event
                        self._news.set()
                    case Steps():
                        self._advance(Progress(event.done, event.steps, event.stage, event.eta))
                    case Result():
                        return event
                    case Error():
                        raise self._fault(EngineError(event.code, event.detail))
        raise BrokenError("engine_lost: the engine's events ended without a result")

    def _fault(self, error: EngineError) -> Exception:
        if error.code == "shutting_down":
            return UnfinishedError(error.detail)
        if error.code == "engine_lost":
            where = last_seen(self._progress)
            return RefusedError(f"engine_lost: {error.detail}, the last {where}")
        text = f"{error.code}: {error.detail}"
        return RefusedError(text) if error.code in _FINAL else BrokenError(text)

    def _advance(self, progress: Progress) -> None:
        if progress.done >= self._progress.done:
            self._progress = progress
            self._news.set()

    async def _begun(self, accepted: Accepted) -> None:
        """Tell that it runs, and from where; an outage of Redis must not keep it from running."""
        if self._job.attempts > 1:
            self._bench.metrics.job_resumed_step.observe(accepted.done)
        told = {"attempt": self._job.attempts, "resumed_at": accepted.done}
        data = msgspec.json.encode(told).decode()
        with contextlib.suppress(RedisError, TimeoutError):
            async with asyncio.timeout(1):
                await self._bench.events.write(self._job.id, "running", data, self._token)
        self._advance(Progress(accepted.done, accepted.steps, None, accepted.eta))

    async def _report(self) -> None:
        """Write progress as it comes, the latest only; no failure to write fails the job.

        The snapshot first: nobody is told of steps that a death would undo, but for an interval's.
        """
        events, identity = self._bench.events, self._job.id
        while True:
            await self._news.wait()
            self._news.clear()
            progress = self._progress
            with contextlib.suppress(RedisError, OSError):
                await self._save()
                self._learn(await events.progress(identity, progress, self._token))
            await asyncio.sleep(_PAUSE)

    async def _save(self) -> None:
        """Keep the latest snapshot, if the job is still this attempt's; it waits where it fails."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        self._learn(await self._bench.events.held(self._job.id, self._token))
        if self.held == "held":
            data = msgspec.msgpack.encode(snapshot)
            write = self._bench.objects.write(state_of(self._job.id), data)
            self._writing = [asyncio.ensure_future(write)]
            await asyncio.shield(self._writing[0])
        if self._snapshot is snapshot:
            self._snapshot = None

    def _learn(self, held: Held) -> None:
        if held != "held":
            self.held = held
            self.changed.set()

    @property
    def _name(self) -> str:
        return f"done/{self._job.id}"


def state_of(identity: str) -> str:
    """The object with a job's last snapshot."""
    return f"states/{identity}"


def overdue(job: Job) -> float | None:
    """Seconds until a job's deadline."""
    return None if job.expires_at is None else max(0.0, job.expires_at - time.time())
