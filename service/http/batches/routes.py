"""/batches: many calls in one file of JSON lines, and what became of each in another."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from unified_latents.service.http import bodies, core
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.batches.drive import JSONL
from unified_latents.service.http.batches.views import (
    MAX_ROWS,
    BatchList,
    BatchPage,
    BatchView,
    batch_view,
)
from unified_latents.service.http.deferral.defer import down, identity_of, jobs_of, owner_of
from unified_latents.service.http.deferral.results import answered, polling
from unified_latents.service.http.problems import (
    FieldError,
    Problem,
    invalid,
    unavailable,
)
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.job import PRIORITIES, Job, Spec
from unified_latents.service.jobs.queue import FinishedError, UnknownJobError

_NEEDS = needs("jobs")
_TYPES = (JSONL, "application/x-ndjson", "application/x-jsonlines")

router = APIRouter(tags=["batches"])


@router.post("/batches", summary="Queue many calls", status_code=202, openapi_extra=_NEEDS)
async def submit(request: Request, response: Response) -> BatchView:
    """202 with the batch. The body has one call a line: `{"custom_id", "kind", "request",
    "accept"}`, as in POST /jobs.

    A line that is wrong fails alone. Rows are queued some at a time, as the least urgent of jobs,
    and charged to the key's budget when they are; a batch waits where that is used up.
    """
    service, jobs, owner = core.of(request), jobs_of(request), owner_of(request)
    if service.draining:
        raise unavailable("shutting_down", "the service is shutting down")
    bodies.content_type(request, *_TYPES)
    body = await request.body()
    rows = sum(1 for line in body.split(b"\n") if line.strip())
    if not 1 <= rows <= MAX_ROWS:
        raise invalid("body", "must have at least one line, and not too many", MAX_ROWS)
    digest = hashlib.sha256(body).hexdigest()
    identity = identity_of(request.headers.get("idempotency-key"), owner, "batch_")
    queue = jobs.batches.queue
    try:
        await jobs.keep(body)
        spec = Spec("batch", digest, "", input=digest, owner=owner, rows=rows)
        made = await queue.submit(identity, spec, PRIORITIES[1])
    except StoreDownError as error:
        raise down(error) from error
    if made.job.spec.digest != digest:
        message = "stands for another request"
        field = FieldError(field="Idempotency-Key", message=message)
        raise Problem(409, "idempotency_mismatch", f"Idempotency-Key: {message}", [field])
    response.headers.update({"Location": f"/batches/{made.job.id}", **polling(made.job)})
    return batch_view(made.job, queue.answers)


@router.get("/batches", summary="Your batches", openapi_extra=_NEEDS)
async def page(request: Request, asked: Annotated[BatchPage, Query()]) -> BatchList:
    """The newest first, a page at a time."""
    queue = jobs_of(request).batches.queue
    try:
        found = await queue.page(owner_of(request), asked.limit, asked.after)
    except StoreDownError as error:
        raise down(error) from error
    shown = [batch_view(job, queue.answers) for job in found.jobs]
    return BatchList(batches=shown, next=found.cursor)


@router.get("/batches/{identity}", summary="How a batch stands", openapi_extra=_NEEDS)
async def show(request: Request, identity: str, response: Response) -> BatchView:
    """State, rows and times."""
    job = await _find(request, identity)
    response.headers.update(polling(job))
    return batch_view(job, jobs_of(request).batches.queue.answers)


@router.delete("/batches/{identity}", summary="Cancel a batch", openapi_extra=_NEEDS)
async def cancel(request: Request, identity: str, response: Response) -> BatchView:
    """Rows that have not ended are cancelled with it; those that have keep their answers.

    200 where it will not run any more, 202 while its rows have yet to be let go, 409 where it has
    ended otherwise.
    """
    queue = jobs_of(request).batches.queue
    try:
        job = await queue.cancel(identity, owner_of(request))
    except FinishedError as error:
        job = error.job
        if job.state != "cancelled":
            raise Problem(409, "batch_finished", f"the batch has {job.state} already") from error
    except UnknownJobError as error:
        raise _unknown() from error
    except StoreDownError as error:
        raise down(error) from error
    response.status_code = 202 if job.state == "running" else 200
    return batch_view(job, queue.answers)


@router.get("/batches/{identity}/output", summary="A batch's output", openapi_extra=_NEEDS)
async def output(request: Request, identity: str) -> Response:
    """One line a row, in the order of the input: `custom_id`, `status`, and where the answer is
    (`result`, with `media_type`, `size` and `sha256`), or the `error`.
    """
    jobs, job = jobs_of(request), await _find(request, identity)
    return await answered(request, jobs.batches.queue, jobs.objects, job)


async def _find(request: Request, identity: str) -> Job:
    try:
        return await jobs_of(request).batches.queue.get(identity, owner_of(request))
    except UnknownJobError as error:
        raise _unknown() from error
    except StoreDownError as error:
        raise down(error) from error


def _unknown() -> Problem:
    return Problem(404, "unknown_batch", "there is no such batch")
