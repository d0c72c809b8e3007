"""Answering calls: at once, or as a job; and what the engine's result looks like on the wire."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import cast

import msgspec
from fastapi import Request, Response

from unified_latents.service.engine.messages import (
    Accepted,
    Array,
    Bitrate,
    Encode,
    Error,
    Event,
    Generate,
    ModelCard,
    Preview,
    Progress,
    Ready,
    Result,
)
from unified_latents.service.engine.seam import EngineError
from unified_latents.service.http import clips, core
from unified_latents.service.http.answers import Receipts, answer, envelope, headers, latent_files
from unified_latents.service.http.deferral import defer as deferral
from unified_latents.service.http.images import FitReport
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import (
    JSON,
    LATENT,
    MEDIA_TYPES,
    Choice,
    Format,
    wants_stream,
)
from unified_latents.service.http.problems import from_engine, invalid, request_id
from unified_latents.service.http.schemas import (
    BitrateReport,
    DecodeQuery,
    EncodeResponse,
    GenerateRequest,
    Item,
)
from unified_latents.service.http.stream.mailbox import follow
from unified_latents.service.http.stream.sse import HEARTBEAT, EventStream
from unified_latents.service.http.stream.sse import event as sse_event
from unified_latents.service.jobs.calls import Answer, Call


async def reply(request: Request, call: Call) -> Response:
    """The answer of a call, or the job that will have it: where the client prefers that, and of a
    new clip, which takes long, unless it would rather wait.
    """
    if deferral.wanted(request, slow=_is_new_clip(request, call)):
        return await deferral.defer(request, call)
    service = core.of(request)
    ready = service.ready()  # what runs is the model of now, whatever is swapped in meanwhile
    done = await service.run(request, call.message)
    return await service.in_thread(lambda: render(call, ready, done))


def _is_new_clip(request: Request, call: Call) -> bool:
    card = core.of(request).card(call.message.model)
    return isinstance(call.message, Generate) and len(card.size) == 3


async def answer_as_asked(
    request: Request, prepare: Callable[[str], Call], asked: GenerateRequest | DecodeQuery
) -> Response:
    """A stream of the call's events where one was asked for, else its answer.

    `prepare` makes the call for an Accept header; what a stream ends with is JSON.
    """
    accept = core.accept(request)
    if asked.stream or wants_stream(accept):
        return await stream(request, prepare(JSON))
    if asked.previews:
        raise invalid("previews", "needs a stream", 0)
    return await reply(request, prepare(accept))


async def stream(request: Request, call: Call) -> Response:
    """The events of a call; what is wrong before its first event is an answer of its own."""
    service, ready, identity = core.of(request), core.of(request).ready(), request_id(request)
    first, events = await service.begin(request, call.message)
    told = follow(first, events, service.settings.heartbeat)
    return EventStream(frames(service, partial(_frame, ready, call, identity), told))


async def frames(
    service: core.Service,
    write: Callable[[Event | None], bytes],
    events: AsyncGenerator[Event | None, None],
) -> AsyncGenerator[bytes, None]:
    """What `write` makes of events that `follow` gave; a client that leaves is counted."""
    ended = False
    try:
        async with aclosing(events):
            async for event in events:
                ended = isinstance(event, Result | Error)
                yield await service.in_thread(partial(write, event))
    finally:
        if not ended:
            service.metrics.cancelled.labels("running").inc()


def _frame(ready: Ready, call: Call, identity: str, event: Event | None) -> bytes:
    """An event as its reader sees it; a comment for none."""
    match event:
        case None:
            return HEARTBEAT
        case Accepted():
            told = {"request_id": identity, "steps": event.steps, "eta": event.eta}
        case Progress():
            told = {"done": event.done, "steps": event.steps, "stage": event.stage}
            told |= {"eta": event.eta}
        case Preview():
            kind, picture = look(event)
            told = {"sample": event.sample, "media_type": MEDIA_TYPES[kind], "b64": picture}
        case Result():
            answer = render(call, ready, event)
            return sse_event("result", bytes(answer.body).decode())
        case Error():
            problem = from_engine(EngineError(event.code, event.detail))
            return sse_event("error", problem.body(identity).model_dump_json())
    return sse_event(type(event).__name__.lower(), json.dumps(told))


def look(preview: Preview, format: Format | None = None) -> tuple[Format, str]:
    """A preview as base64 of a file: in `format`, else a PNG, an animated one of a clip."""
    image = preview.image
    kind = format or ("png" if len(image.shape) == 3 else "apng")
    batch = Array((1, *image.shape), image.dtype, image.data)
    return kind, base64.b64encode(clips.save(batch, kind)[0]).decode()


def render(call: Call, ready: Ready, done: Result) -> Response:
    """The answer that an engine's result makes; a function of its arguments alone."""
    message, choice = call.message, _choice(call)
    fit = FitReport.model_validate(call.fit) if call.fit else None
    receipts = _receipts(call, ready, done, fit)
    if isinstance(message, Encode):
        if fit is None:
            raise TypeError("a call to encode says how its picture was fitted")
        return _encoded(receipts, fit, done, bare=choice.bare)
    n = message.n if isinstance(message, Generate) and choice.format == "latents" else 1
    return answer(receipts, _files(message, done, receipts.card, choice), choice, n)


def images(call: Call, ready: Ready, done: Result) -> list[Item]:
    """The pictures of a result with their receipts."""
    receipts, choice = _receipts(call, ready, done), _choice(call)
    return envelope(receipts, _files(call.message, done, receipts.card, choice), choice).data


def _choice(call: Call) -> Choice:
    return Choice(cast(Format, call.format), call.bare)


def _receipts(call: Call, ready: Ready, done: Result, fit: FitReport | None = None) -> Receipts:
    """Of the checkpoint that the result came from, which may have been replaced meanwhile."""
    card = next(card for card in ready.models if card.name == call.message.model)
    card = msgspec.structs.replace(card, digest=done.model or card.digest)
    mode = fit.mode if fit else None
    return Receipts(ready, card, call.message, _choice(call).format, call.source, mode)


def answer_of(call: Call, ready: Ready, done: Result) -> Answer:
    """The same as a job keeps it."""
    response = render(call, ready, done)
    beside = {k: v for k, v in response.headers.items() if k.startswith("ul-")}
    return Answer(bytes(response.body), response.media_type or JSON, beside)


def _files(message: object, done: Result, card: ModelCard, choice: Choice) -> list[bytes]:
    if isinstance(message, Generate) and done.latents is not None:
        return latent_files(done.latents, card, whole=choice.bare)
    if done.images is None:
        raise TypeError("the engine's result holds neither images nor latents")
    return clips.save(done.images, choice.format)


def _encoded(receipts: Receipts, fit: FitReport, done: Result, *, bare: bool) -> Response:
    card, message = receipts.card, receipts.request
    if done.latents is None or not isinstance(message, Encode):
        raise TypeError("the engine's result holds no latent")
    file = write(done.latents, message.kind, card)
    receipt = receipts.of(0, file)
    body = EncodeResponse(
        model=card.name,
        latent=base64.b64encode(file).decode(),
        media_type=LATENT,
        kind=message.kind,
        shape=list(done.latents.shape),
        latent_space=card.latent_space,
        seed=message.seed,
        sha256=receipt.sha256,
        fit=fit,
        bitrate=_report(done.bitrate, card, message.levels) if done.bitrate else None,
        receipt=receipt,
    )
    if not bare:
        return Response(body.model_dump_json(), media_type=JSON)
    beside = headers(receipt) | {"UL-Fit": fit.model_dump_json(ensure_ascii=True)}
    if body.bitrate:
        beside["UL-Bitrate"] = body.bitrate.model_dump_json()
    return Response(file, media_type=LATENT, headers=beside)


def _report(bitrate: Bitrate, card: ModelCard, levels: int) -> BitrateReport:
    """nats in every unit that people ask for."""
    bits = bitrate.nats / math.log(2)
    return BitrateReport(
        nats=bitrate.nats,
        bits=bits,
        bits_per_pixel=bits / math.prod(card.size),
        bits_per_dim=bits / math.prod(card.latent_shape),
        levels=levels,
        std_error=bitrate.std_error if math.isfinite(bitrate.std_error) else None,
    )
