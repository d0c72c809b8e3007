"""`google.longrunning.Operations` over the caller's jobs: operations/<job>."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from google.rpc.code_pb2 import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED

from unified_latents.service.http.core import Service
from unified_latents.service.http.deferral.defer import down
from unified_latents.service.http.problems import Problem, invalid
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.events import follow
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.queue import FinishedError, UnknownJobError
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.rpc.asking import Context, asked
from unified_latents.service.rpc.proto import ul_pb2

PREFIX = "operations/"
_PAGE = 50
_MAX_PAGE = 200
_QUIET = 1.0
"""Seconds without an event after which the job itself is looked at."""
_CODES = {
    "cancelled": CANCELLED,
    "deadline_exceeded": DEADLINE_EXCEEDED,
    "out_of_memory": RESOURCE_EXHAUSTED,
}


class Operations(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # it has no types
    """Jobs, whoever queued them: POST /jobs, or any call with `Prefer: respond-async`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """How a job stands."""
        async with asked(self._service, context, "GetOperation", "jobs") as who:
            with _problems():
                return _operation(await self._jobs().queue.get(_id(request.name), who.caller.name))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        """The caller's jobs, the newest first, a page at a time."""
        async with asked(self._service, context, "ListOperations", "jobs") as who:
            if request.filter:
                raise invalid("filter", "is not supported")
            if not 0 <= request.page_size <= _MAX_PAGE:
                raise invalid("page_size", "is out of range", _MAX_PAGE)
            size, before = request.page_size or _PAGE, request.page_token or None
            with _problems():
                page = await self._jobs().queue.page(who.caller.name, size, before)
            found = map(_operation, page.jobs)
            return operations_pb2.ListOperationsResponse(
                operations=found, next_page_token=page.cursor or ""
            )

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Context
    ) -> Empty:
        """Let a job go; one that has ended otherwise stays as it is."""
        async with asked(self._service, context, "CancelOperation", "jobs") as who:
            with _problems():
                await self._jobs().queue.cancel(_id(request.name), who.caller.name)
            return Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: Context
    ) -> Empty:
        """Forget a job that has ended; its answer's bytes go when they are not kept any more."""
        async with asked(self._service, context, "DeleteOperation", "jobs") as who:
            with _problems():
                try:
                    await self._jobs().queue.delete(_id(request.name), who.caller.name)
                except FinishedError as error:
                    raise Problem(409, "job_not_finished", "the job has not ended") from error
            return Empty()

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """The job when it has ended, or as it is after `timeout`."""
        async with asked(self._service, context, "WaitOperation", "jobs") as who:
            limit = request.timeout.ToTimedelta().total_seconds()
            jobs, identity = self._jobs(), _id(request.name)
            with _problems():
                job = await jobs.queue.get(identity, who.caller.name)
                with suppress(TimeoutError):
                    async with asyncio.timeout(limit if request.HasField("timeout") else None):
                        await _ended(jobs, job)
                return _operation(await jobs.queue.get(identity, who.caller.name))

    def _jobs(self) -> Jobs:
        if self._service.jobs is None:
            raise Problem(404, "jobs_disabled", "this service runs without jobs")
        return self._service.jobs


async def _ended(jobs: Jobs, job: Job) -> None:
    """Until a job has."""
    if job.state in FINISHED:
        return
    async for event in follow(jobs.events, job.id, "0", _QUIET):
        if event.kind in ("", "end"):
            job = await jobs.queue.get(job.id, job.spec.owner)
            if job.state in FINISHED:
                return


def _id(name: str) -> str:
    if not name.startswith(PREFIX):
        raise invalid("name", f"must begin with {PREFIX}")
    return name.removeprefix(PREFIX)


@contextmanager
def _problems() -> Iterator[None]:
    """What the queue says, as the routes say it."""
    try:
        yield
    except UnknownJobError as error:
        raise Problem(404, "unknown_job", "no such job") from error
    except FinishedError as error:
        if error.job.state != "cancelled":
            detail = f"the job has {error.job.state} already"
            raise Problem(409, "job_finished", detail) from error
    except StoreDownError as error:
        raise down(error) from error


def _operation(job: Job) -> operations_pb2.Operation:
    made = operations_pb2.Operation(name=f"{PREFIX}{job.id}", done=job.state in FINISHED)
    metadata = ul_pb2.JobMetadata(
        kind=job.spec.kind,
        model=job.spec.model,
        state=job.state,
        cancelling=job.cancelling,
        done=job.progress.done,
        steps=job.progress.steps,
        attempts=job.attempts,
    )
    made.metadata.Pack(metadata)
    if job.outcome is not None:
        answer = ul_pb2.JobAnswer(
            path=f"/jobs/{job.id}/result",
            media_type=job.outcome.media_type,
            size=job.outcome.size,
            sha256=job.outcome.sha256,
        )
        made.response.Pack(answer)
    elif made.done:
        code = job.reason.code if job.reason else job.state
        made.error.code = _CODES.get(code, INTERNAL)
        made.error.message = f"{code}: {job.reason.detail}" if job.reason else code
    return made
