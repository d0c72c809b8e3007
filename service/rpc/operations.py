"""`google.longrunning.Operations` over the caller's jobs: operations/<job>."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from unified_latents.service.http.core import Service
from unified_latents.service.http.deferral.defer import jobs_in
from unified_latents.service.http.problems import Problem, invalid
from unified_latents.service.jobs.events import follow
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.queue import FinishedError
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.rpc.asking import Context, asked
from unified_latents.service.rpc.replies import job_of, operation
from unified_latents.service.rpc.requests import seconds

_PAGE = 50
_MAX_PAGE = 200
_QUIET = 1.0
"""Seconds without an event after which the job itself is looked at."""


class Operations(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # it has no types
    """Jobs, whoever queued them: Submit, POST /jobs, or any call with `Prefer: respond-async`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """How a job stands."""
        async with asked(self._service, context, "GetOperation", "jobs") as who:
            job = await self._jobs().queue.get(job_of(request.name), who.caller.name)
            return operation(job)

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
            page = await self._jobs().queue.page(who.caller.name, size, before)
            found = map(operation, page.jobs)
            return operations_pb2.ListOperationsResponse(
                operations=found, next_page_token=page.cursor or ""
            )

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Context
    ) -> Empty:
        """Let a job go; one that has ended otherwise stays as it is."""
        async with asked(self._service, context, "CancelOperation", "jobs") as who:
            try:
                await self._jobs().queue.cancel(job_of(request.name), who.caller.name)
            except FinishedError as error:
                if error.job.state != "cancelled":
                    raise
            return Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: Context
    ) -> Empty:
        """Forget a job that has ended; its answer's bytes go when they are not kept any more."""
        async with asked(self._service, context, "DeleteOperation", "jobs") as who:
            try:
                await self._jobs().queue.delete(job_of(request.name), who.caller.name)
            except FinishedError as error:
                raise Problem(409, "job_not_finished", "the job has not ended") from error
            return Empty()

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """The job when it has ended, or as it is after `timeout`."""
        async with asked(self._service, context, "WaitOperation", "jobs") as who:
            limit = seconds(request.timeout)
            jobs, identity = self._jobs(), job_of(request.name)
            job = await jobs.queue.get(identity, who.caller.name)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit if request.HasField("timeout") else None):
                    await _ended(jobs, job)
            return operation(await jobs.queue.get(identity, who.caller.name))

    def _jobs(self) -> Jobs:
        return jobs_in(self._service)


async def _ended(jobs: Jobs, job: Job) -> None:
    """Until a job has."""
    if job.state in FINISHED:
        return
    async for event in follow(jobs.events, job.id, "0", _QUIET):
        if event.kind in ("", "end"):
            job = await jobs.queue.get(job.id, job.spec.owner)
            if job.state in FINISHED:
                return
