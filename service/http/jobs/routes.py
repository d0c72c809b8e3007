"""/jobs: slow work, its progress, its end, and its answer for as long as it is kept."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from unified_latents.service.http import bodies, core, decode, encode, frames, generate
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.deferral.defer import defer, down, jobs_of, owner_of
from unified_latents.service.http.deferral.results import answered, polling
from unified_latents.service.http.deferral.views import (
    AnyJob,
    EncodeJob,
    GenerateJob,
    JobList,
    JobPage,
    JobRequest,
    JobView,
    view,
)
from unified_latents.service.http.problems import Problem, invalid
from unified_latents.service.http.stream import sse
from unified_latents.service.http.stream.sse import EventStream
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.events import follow
from unified_latents.service.jobs.job import FINISHED, Job
from unified_latents.service.jobs.queue import FinishedError, UnknownJobError
from unified_latents.service.jobs.runtime import Jobs, Options

_QUIET = 1.0
"""Seconds without an event after which the job itself is looked at."""
_EVENT = re.compile(r"[0-9]{1,15}(-[0-9]{1,15})?")
"""The id of an event in a Redis stream."""
_LAST = "end"
"""The id of a stream's last event: who comes back with it has seen it all."""

_NEEDS = needs("jobs")

router = APIRouter(tags=["jobs"])


@router.post("/jobs", summary="Queue a call", status_code=202, openapi_extra=_NEEDS)
async def submit(request: Request) -> Response:
    """202 with the job, which outlives this connection, this process and its engine.

    The answer at `/jobs/{id}/result` has the bytes that the same call would have had at once. With
    an `Idempotency-Key`, asking again gives the same job.
    """
    body = (await bodies.read_files(request, JobRequest)).root
    call = await prepare(core.of(request), body)
    return await defer(request, call, Options(body.priority, body.deadline, body.webhook))


@router.get("/jobs", summary="Your jobs", openapi_extra=_NEEDS)
async def page(request: Request, asked: Annotated[JobPage, Query()]) -> JobList:
    """The newest first, a page at a time."""
    jobs = jobs_of(request)
    try:
        found = await jobs.queue.page(owner_of(request), asked.limit, asked.after)
    except StoreDownError as error:
        raise down(error) from error
    answers = jobs.queue.answers
    return JobList(jobs=[view(job, answers) for job in found.jobs], next=found.cursor)


@router.get("/jobs/{identity}", summary="How a job stands", openapi_extra=_NEEDS)
async def show(request: Request, identity: str, response: Response) -> JobView:
    """State, progress, reason and times."""
    job = await _find(request, identity)
    response.headers.update(polling(job))
    return view(job, jobs_of(request).queue.answers)


@router.delete("/jobs/{identity}", summary="Cancel a job", openapi_extra=_NEEDS)
async def cancel(request: Request, identity: str, response: Response) -> JobView:
    """200 where it will not run any more, 202 while its worker has yet to let it go.

    A job that has ended otherwise stays as it is: 409.
    """
    jobs = jobs_of(request)
    try:
        job = await jobs.queue.cancel(identity, owner_of(request))
    except FinishedError as error:
        job = error.job
        if job.state != "cancelled":
            raise Problem(409, "job_finished", f"the job has {job.state} already") from error
    except UnknownJobError as error:
        raise _unknown() from error
    except StoreDownError as error:
        raise down(error) from error
    response.status_code = 202 if job.state == "running" else 200
    return view(job, jobs.queue.answers)


@router.get("/jobs/{identity}/events", summary="Follow a job", openapi_extra=_NEEDS)
async def events(request: Request, identity: str) -> Response:
    """Server-sent events: `running`, `progress`, `queued` when a worker gave it back, at the end
    the job's state. `Last-Event-ID` goes on after an event; progress never goes back.
    """
    after = request.headers.get("last-event-id", "0")
    if after == _LAST:
        return Response(status_code=204)
    if not _EVENT.fullmatch(after):
        after = "0"
    await _find(request, identity)
    stream = _stream(jobs_of(request), identity, owner_of(request), after)
    return EventStream(stream)


@router.get("/jobs/{identity}/result", summary="A job's answer", openapi_extra=_NEEDS)
async def result(request: Request, identity: str) -> Response:
    """What the call would have answered, headers included; byte ranges are served.

    409 while there is none, or where there will be none; 410 when it is not kept any more.
    """
    jobs, job = jobs_of(request), await _find(request, identity)
    return await answered(request, jobs.queue, jobs.objects, job)


@router.post(
    "/admin/jobs/{identity}/redrive",
    summary="Queue a failed job again",
    openapi_extra=needs("admin"),
)
async def redrive(request: Request, identity: str) -> JobView:
    """Its attempts are forgotten and its deadline counts anew. 409 where it has not failed."""
    jobs = jobs_of(request)
    try:
        return view(await jobs.queue.redrive(identity), jobs.queue.answers)
    except UnknownJobError as error:
        raise _unknown() from error
    except FinishedError as error:
        raise Problem(409, "job_not_failed", f"the job is {error.job.state}") from error
    except StoreDownError as error:
        raise down(error) from error


async def prepare(service: core.Service, body: AnyJob) -> Call:
    """A job's call; a Problem where it is none that can be carried out."""
    if isinstance(body, GenerateJob):
        return await _generate(service, body)
    if isinstance(body, EncodeJob):
        data = bodies.from_base64("request.image", body.request.image)
        return await encode.prepare(service, body.request, data, body.accept)
    data = bodies.from_base64("request.latent", body.request.latent)
    return decode.prepare(service, body.request, data, body.accept)


async def _generate(service: core.Service, body: GenerateJob) -> Call:
    asked = body.request
    if asked.stream or asked.previews:
        raise invalid("request.stream", "a job has events of its own, and no previews")
    known = await frames.known(service, asked.frames, service.card(asked.model))
    return generate.prepare(service, asked, known, body.accept)


async def _find(request: Request, identity: str) -> Job:
    try:
        return await jobs_of(request).queue.get(identity, owner_of(request))
    except UnknownJobError as error:
        raise _unknown() from error
    except StoreDownError as error:
        raise down(error) from error


async def _stream(jobs: Jobs, identity: str, owner: str, after: str) -> AsyncGenerator[bytes, None]:
    """The kept events and those to come; in silence, the job says how it stands."""
    with suppress(StoreDownError, UnknownJobError):
        async for event in follow(jobs.events, identity, after, _QUIET):
            if event.kind:
                yield b"" if event.kind == "end" else sse.event(event.kind, event.data, event.id)
                continue
            job = await jobs.queue.get(identity, owner)
            if job.state in FINISHED:
                shown = view(job, jobs.queue.answers).model_dump_json()
                yield sse.event(job.state, shown, _LAST)
                return
            yield sse.HEARTBEAT


def _unknown() -> Problem:
    return Problem(404, "unknown_job", "there is no such job")
