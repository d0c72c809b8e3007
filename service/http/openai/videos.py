"""/v1/videos: OpenAI's videos over jobs that generate a clip. A video's id is its job's."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from unified_latents.service.engine.lengths import is_clip
from unified_latents.service.engine.messages import Generate, ModelCard
from unified_latents.service.http import bodies, clips, core, frames, generate
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.deferral import defer as deferral
from unified_latents.service.http.deferral.results import answered, polling
from unified_latents.service.http.negotiation import JSON, MEDIA_TYPES
from unified_latents.service.http.openai.schemas import (
    VideoDeleted,
    VideoError,
    VideoForm,
    VideoList,
    VideoObject,
    VideoPage,
    VideoPart,
    VideoRequest,
)
from unified_latents.service.http.problems import (
    FieldError,
    Problem,
    invalid,
    retry_headers,
    validation_problem,
)
from unified_latents.service.http.schemas import GenerateRequest
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.job import FINISHED, Job, State
from unified_latents.service.jobs.queue import FinishedError, JobQueue, UnknownJobError

PREFIX = "video_"
_PAGE = 200
_FILE = "input_reference"
_LET_GO = 0.5
"""Seconds after which a worker will have let a cancelled job go."""
_STATUS: dict[State, Literal["queued", "in_progress", "completed", "failed"]] = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
_NEEDS = needs("jobs")

router = APIRouter(tags=["openai"])


@router.post("/v1/videos", summary="Queue a clip, for OpenAI's SDKs", openapi_extra=_NEEDS)
async def create(request: Request, response: Response) -> VideoObject:
    """The prompt is the name of a label; `input_reference`, the file of a form, a clip of exactly
    the frames that the model may be shown. An `Idempotency-Key` stands for one video.
    """
    service = core.of(request)
    body, file = await _read(request)
    call = await prepare(service, body, file)
    said = hashlib.sha256(body.model_dump_json().encode() + b"\0" + (file or b"")).hexdigest()
    key = request.headers.get("idempotency-key")
    order = deferral.Order(call, said, key=key, prefix=PREFIX)
    made = await deferral.submit(service, core.caller(request), order)
    return _shown(request, made.job, response)


@router.get("/v1/videos", summary="Your videos", openapi_extra=_NEEDS)
async def page(request: Request, asked: Annotated[VideoPage, Query()]) -> VideoList:
    """The newest first, after the one that `after` names."""
    queue, owner = deferral.jobs_of(request).queue, deferral.owner_of(request)
    before = None
    if asked.after is not None:
        before = (await _find(request, asked.after, "after")).cursor
    found: list[Job] = []
    try:
        async for job in _videos(queue, owner, before):
            found.append(job)
            if len(found) > asked.limit:
                break
    except StoreDownError as error:
        raise deferral.down(error) from error
    shown = [view(job, core.of(request), queue) for job in found[: asked.limit]]
    return VideoList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(found) > asked.limit,
    )


@router.get("/v1/videos/{identity}", summary="How a video stands", openapi_extra=_NEEDS)
async def show(request: Request, identity: str, response: Response) -> VideoObject:
    """`progress` in percent; a video that was cancelled has failed."""
    return _shown(request, await _find(request, identity), response)


@router.get("/v1/videos/{identity}/content", summary="A video's file", openapi_extra=_NEEDS)
async def content(
    request: Request, identity: str, asked: Annotated[VideoPart, Query()]
) -> Response:
    """The mp4; byte ranges are served. 409 while there is none, 410 when it is kept no more."""
    jobs, job = deferral.jobs_of(request), await _find(request, identity)
    return await answered(request, jobs.queue, jobs.objects, job)


@router.delete("/v1/videos/{identity}", summary="Forget a video", openapi_extra=_NEEDS)
async def delete(request: Request, identity: str) -> VideoDeleted:
    """One that has not ended is cancelled first: 409, to come back, until its worker lets it go."""
    queue, owner = deferral.jobs_of(request).queue, deferral.owner_of(request)
    job = await _find(request, identity)
    try:
        if job.state not in FINISHED:
            await queue.cancel(identity, owner)
        await queue.delete(identity, owner)
    except UnknownJobError:
        pass  # somebody else's hand was quicker
    except FinishedError as error:
        detail = "the video is being cancelled"
        raise Problem(409, "cancelling", detail, headers=retry_headers(_LET_GO)) from error
    except StoreDownError as error:
        raise deferral.down(error) from error
    return VideoDeleted(id=identity)


async def _read(request: Request) -> tuple[VideoRequest, bytes | None]:
    """The body, and the form's file if there is one."""
    if bodies.content_type(request, bodies.FORM, JSON) == JSON:
        return await bodies.read_json(request, VideoRequest), None
    text, file = await bodies.read_form(request, _FILE)
    try:
        return VideoForm.model_validate(text), file
    except ValidationError as error:
        raise validation_problem(error) from None


async def prepare(service: core.Service, body: VideoRequest, file: bytes | None) -> Call:
    """The call that a body means; a Problem where there is no such model, label, length or size."""
    card = _card(service, body.model)
    for field, said, own in (
        ("seconds", body.seconds, _seconds(card)),
        ("size", body.size, _size(card)),
    ):
        if said not in (None, own):
            raise invalid(field, "is not the model's", own)
    generate.find_label(body.prompt, card.labels, "prompt")
    known = await frames.of_files(service, [file] if file else [], card, _FILE)
    asked = GenerateRequest.model_validate(
        {"model": card.name, "label": body.prompt, "seed": body.seed, "format": "mp4"}
    )
    return generate.prepare(service, asked, known, MEDIA_TYPES["mp4"])


def _card(service: core.Service, name: str | None) -> ModelCard:
    """A model of clips, the first one if none is named."""
    makers = [card for card in service.ready().models if is_clip(card)]
    if name is None and makers:
        return makers[0]
    card = service.card(name)
    if not is_clip(card):
        message = "makes no clips"
        limit = ", ".join(maker.name for maker in makers)
        fault = FieldError(field="model", message=message, limit=limit)
        raise Problem(404, "unknown_model", f"model: {message}", [fault])
    return card


def _shown(request: Request, job: Job, response: Response) -> VideoObject:
    response.headers.update(polling(job))
    return view(job, core.of(request), deferral.jobs_of(request).queue)


def view(job: Job, service: core.Service, queue: JobQueue) -> VideoObject:
    """A job as a video; its words are those of its label, where the queue itself holds its call."""
    card = next((each for each in service.ready().models if each.name == job.spec.model), None)
    message = job.spec.call.message if job.spec.call else None
    prompt = None
    if card and isinstance(message, Generate) and message.label < len(card.labels):
        prompt = card.labels[message.label]
    ended = job.finished if job.state == "succeeded" else None
    reason = job.reason
    return VideoObject(
        id=job.id,
        model=job.spec.model,
        status=_STATUS[job.state],
        progress=_percent(job),
        prompt=prompt,
        seconds=_seconds(card) if card else None,
        size=_size(card) if card else None,
        created_at=int(job.created),
        completed_at=None if ended is None else int(ended),
        expires_at=None if ended is None else int(ended + queue.answers),
        error=VideoError(code=reason.code, message=reason.detail) if reason else None,
    )


async def _videos(queue: JobQueue, owner: str, before: str | None) -> AsyncIterator[Job]:
    """Of an owner's jobs those that are videos, the newest first."""
    while True:
        found = await queue.page(owner, _PAGE, before, PREFIX)
        for job in found.jobs:
            yield job
        if (before := found.cursor) is None:
            return


async def _find(request: Request, identity: str, field: str = "id") -> Job:
    queue = deferral.jobs_of(request).queue
    try:
        if identity.startswith(PREFIX):
            return await queue.get(identity, deferral.owner_of(request))
    except UnknownJobError:
        pass
    except StoreDownError as error:
        raise deferral.down(error) from error
    message = "there is no such video"
    raise Problem(404, "unknown_video", message, [FieldError(field=field, message=message)])


def _percent(job: Job) -> int:
    """Of the work; all of it is done only when the answer is there."""
    if job.state == "succeeded":
        return 100
    progress = job.progress
    return min(99, 100 * progress.done // progress.steps) if progress.steps else 0


def _seconds(card: ModelCard) -> str:
    """Of a clip, as we write it."""
    return f"{card.size[0] / clips.RATE:g}"


def _size(card: ModelCard) -> str:
    return f"{card.size[-1]}x{card.size[-2]}"
