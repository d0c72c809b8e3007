"""Carrying a batch out: a window of its rows is in the queue of jobs, and its output follows.

A row that cannot be carried out fails alone. Rows go last among jobs, and wait where their key's
budget or the queue has no room for more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from pydantic import ValidationError

from unified_latents.service.engine.forecast import row_steps
from unified_latents.service.engine.seam import EngineError
from unified_latents.service.http.batches.views import MAX_ID, Row
from unified_latents.service.http.core import Service
from unified_latents.service.http.deferral.defer import charge, check
from unified_latents.service.http.jobs.routes import prepare
from unified_latents.service.http.problems import Problem, from_engine, validation_problem
from unified_latents.service.jobs.batches import Report, StoppedError, row_identity
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.job import FINISHED, PRIORITIES, Job, Outcome, Progress
from unified_latents.service.jobs.queue import FinishedError, UnknownJobError
from unified_latents.service.jobs.runtime import Jobs, Options

JSONL = "application/jsonl"
_WINDOW = 64
"""Rows of one batch that are in the queue at once."""
_PAUSE = 0.1

T = TypeVar("T")

Line = dict[str, Any]


class Driver:
    """One batch on its way."""

    def __init__(self, service: Service, jobs: Jobs, batch: Job, report: Report) -> None:
        self._service = service
        self._jobs = jobs
        self._batch = batch
        self._report = report
        self._lines: dict[int, Line] = {}
        self._waiting: dict[str, tuple[int, str | None]] = {}
        """Job → row and custom id."""
        self._total = 0

    async def run(self) -> Outcome:
        """Every row to its end; the output, kept."""
        try:
            data = await self._jobs.objects.get("inputs", self._batch.spec.input or "")
            rows = [row for row in data.split(b"\n") if row.strip()]
            self._total = len(rows)
            for index, row in enumerate(rows):
                while len(self._waiting) >= _WINDOW:
                    await self._look()
                await self._put(index, row)
            while self._waiting:
                await self._look()
        except StoppedError as error:
            if error.cancelled:
                await self._cancel()
            raise
        return await self._keep()

    async def _put(self, index: int, row: bytes) -> None:
        """Queue a row's job, unless an earlier run of the batch did; a bad row is answered."""
        identity, custom = row_identity(self._batch.id, index), None
        try:
            read = Row.model_validate_json(row)
            custom = read.custom_id
            if not await self._known(identity):
                await self._submit(identity, index, read)
            self._waiting[identity] = (index, custom)
        except ValidationError as error:
            self._lines[index] = _refused(index, _custom_id(row), validation_problem(error))
        except Problem as problem:
            self._lines[index] = _refused(index, custom, problem)

    async def _known(self, identity: str) -> bool:
        return bool(await self._patiently(lambda: self._jobs.queue.read([identity])))

    async def _submit(self, identity: str, index: int, row: Row) -> None:
        caller = self._service.guard.named(self._batch.spec.owner)
        if caller is None:
            raise Problem(401, "unauthorized", "the batch's key is not known here any more")
        options = Options(priority=PRIORITIES[1], listed=False)
        digest = hashlib.sha256(f"{self._batch.spec.digest}\0{index}".encode()).hexdigest()

        async def attempt() -> None:
            call = await prepare(self._service, row.job())
            check(caller, call)
            cost = await charge(self._service, caller, self._jobs, row_steps(call.message))
            try:
                await self._jobs.submit(identity, call, digest, caller.name, options)
            except StoreDownError:
                self._service.admission.give_back(caller, cost)
                raise

        await self._patiently(attempt)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Again and again, while there is no room or no store."""
        while True:
            try:
                return await attempt()
            except StoreDownError:
                pass
            except Problem as problem:
                if problem.headers.get("x-should-retry") != "true":
                    raise
            await self._look()

    async def _look(self) -> None:
        """Take what has ended out of the window, and tell how far it is."""
        await asyncio.sleep(_PAUSE)
        with suppress(StoreDownError):
            found = {job.id: job for job in await self._jobs.queue.read(list(self._waiting))}
            for identity, (index, custom) in list(self._waiting.items()):
                job = found.get(identity)
                if job is None or job.state in FINISHED:
                    del self._waiting[identity]
                    self._lines[index] = _ended(index, custom, job)
        failed = sum("error" in line for line in self._lines.values())
        await self._report(Progress(len(self._lines), self._total, failed=failed))

    async def _cancel(self) -> None:
        """A batch that ends early takes its rows with it."""
        for identity in self._waiting:
            with suppress(StoreDownError, UnknownJobError, FinishedError):
                await self._jobs.queue.cancel(identity, self._batch.spec.owner)

    async def _keep(self) -> Outcome:
        lines = (msgspec.json.encode(self._lines[index]) for index in range(self._total))
        body = b"".join(line + b"\n" for line in lines)
        await self._report(
            Progress(
                self._total,
                self._total,
                failed=sum("error" in line for line in self._lines.values()),
            )
        )
        digest = await self._jobs.objects.put("answers", body)
        return Outcome(digest, len(body), JSONL, {})


def _ended(index: int, custom: str | None, job: Job | None) -> Line:
    """What became of a row's job: where its answer is, or why there is none."""
    if job is None:
        return _refused(index, custom, Problem(410, "result_expired", "its job is not kept"))
    if job.outcome is None:
        reason = job.reason
        code, detail = (reason.code, reason.detail) if reason else ("cancelled", "cancelled")
        return _refused(index, custom, from_engine(EngineError(code, detail)), job.id)
    return {
        "index": index,
        "custom_id": custom,
        "status": 200,
        "job": job.id,
        "media_type": job.outcome.media_type,
        "size": job.outcome.size,
        "sha256": job.outcome.sha256,
        "result": f"/jobs/{job.id}/result",
    }


def _refused(index: int, custom: str | None, problem: Problem, job: str | None = None) -> Line:
    error = {
        "code": problem.code,
        "detail": problem.detail,
        "errors": [error.model_dump() for error in problem.errors],
    }
    return {
        "index": index,
        "custom_id": custom,
        "status": problem.status,
        "job": job,
        "error": error,
    }


def _custom_id(row: bytes) -> str | None:
    """Of a row that is otherwise wrong, if it can be read."""
    try:
        said = msgspec.json.decode(row, type=dict[str, Any]).get("custom_id")
    except (msgspec.DecodeError, RecursionError):
        return None
    return said if isinstance(said, str) and len(said) <= MAX_ID else None


async def drive(service: Service, jobs: Jobs, batch: Job, report: Report) -> Outcome:
    """A batch, from its rows to its output."""
    return await Driver(service, jobs, batch, report).run()
