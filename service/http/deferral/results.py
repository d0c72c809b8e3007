"""The answer of a job that has ended, whole or a part of it, for as long as it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request, Response
from starlette.responses import StreamingResponse

from unified_latents.service.http.deferral.ranges import parse_range
from unified_latents.service.http.deferral.views import moment
from unified_latents.service.http.problems import Problem, unavailable
from unified_latents.service.jobs.connection import StoreDownError, answering
from unified_latents.service.jobs.job import FINISHED, Job, Outcome
from unified_latents.service.jobs.objects import MissingObjectError, Objects
from unified_latents.service.jobs.queue import JobQueue

_CHUNK = 2**20
_READING = 10.0
"""Seconds that a client waits for a part of an answer."""
_POLL_MS = 500
"""After which a client that polls should look again."""


async def answered(request: Request, queue: JobQueue, objects: Objects, job: Job) -> Response:
    """The stored answer with its headers; a 409 where there is none, a 410 where it is gone."""
    outcome = outcome_of(queue, job)
    etag = f'"{outcome.sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", **outcome.headers}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range") if _unchanged(request, etag) else None
    span = parse_range(asked, outcome.size)
    start, end = span or (0, outcome.size)
    body = pieces(objects, job, outcome, start, end)
    first = await anext(body)  # what is gone is an answer of its own
    headers["Content-Length"] = str(end - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{outcome.size}"
    whole = _after(first, body)
    return StreamingResponse(whole, 206 if span else 200, headers, outcome.media_type)


def polling(job: Job) -> dict[str, str]:
    """When to look again, for as long as there is something to wait for."""
    if job.state in FINISHED:
        return {}
    seconds = -(-_POLL_MS // 1000)
    return {"Retry-After": str(seconds), "openai-poll-after-ms": str(_POLL_MS)}


async def pieces(
    objects: Objects, job: Job, outcome: Outcome, start: int, end: int
) -> AsyncIterator[bytes]:
    """The bytes `start` … `end − 1` of an answer; a 410 where they are gone, a 503 where the store
    does not give them in time.
    """
    while start < end:
        try:
            async with answering(_READING):
                name = f"answers/{outcome.sha256}"
                piece = await objects.read_range(name, start, min(end, start + _CHUNK))
        except MissingObjectError as error:
            raise _gone(job.finished or job.created) from error
        except StoreDownError as error:
            raise unavailable("jobs_unavailable", str(error)) from error
        start += len(piece)
        yield piece


async def _after(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in others:
        yield each


def outcome_of(queue: JobQueue, job: Job) -> Outcome:
    """What a job has made; a 409 where there is nothing, a 410 where it is not kept any more."""
    if (when := queue.expired(job)) is not None:
        raise _gone(when)
    if job.outcome is not None:
        return job.outcome
    if job.state in FINISHED:
        reason = f": {job.reason.code}, {job.reason.detail}" if job.reason else ""
        raise Problem(409, f"job_{job.state}", f"the job has no answer{reason}")
    raise Problem(409, "job_not_finished", f"the job is {job.state}", headers=polling(job))


def _unchanged(request: Request, etag: str) -> bool:
    return request.headers.get("if-range", etag) == etag


def _gone(when: float) -> Problem:
    text = moment(when).isoformat(timespec="seconds")
    return Problem(410, "result_expired", f"the answer was kept until {text}")
