"""POST /v1/images/generations: a label's name to pictures, as OpenAI's API gives them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from unified_latents.service.engine.messages import Error, Event, Preview, Ready, Result
from unified_latents.service.engine.seam import EngineError
from unified_latents.service.http import bodies, calls, core, generate
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.negotiation import JSON
from unified_latents.service.http.openai import errors
from unified_latents.service.http.openai.schemas import (
    CompletedImage,
    ImageDatum,
    ImageList,
    ImageRequest,
    OutputFormat,
    PartialImage,
)
from unified_latents.service.http.problems import from_engine, invalid
from unified_latents.service.http.schemas import GenerateRequest, Item
from unified_latents.service.http.stream.mailbox import follow
from unified_latents.service.http.stream.sse import HEARTBEAT, EventStream, event
from unified_latents.service.jobs.calls import Call

router = APIRouter()


@dataclass
class Telling:
    """One request's events in OpenAI's form."""

    ready: Ready
    call: Call
    size: str
    format: OutputFormat
    _looks: Counter[int] = field(default_factory=Counter)

    def items(self, done: Result) -> list[Item]:
        """The pictures of a result."""
        return calls.images(self.call, self.ready, done)

    def frame(self, told: Event | None) -> bytes:
        """An event as its reader sees it; a comment for none, nothing for what OpenAI has not."""
        if told is None:
            return HEARTBEAT
        return b"".join(event(name, body.model_dump_json()) for name, body in self._bodies(told))

    def _bodies(self, told: Event) -> Iterator[tuple[str, BaseModel]]:
        now = int(time.time())
        match told:
            case Preview():
                partial_image = PartialImage(
                    b64_json=calls.look(told, self.format)[1],
                    partial_image_index=self._looks[told.sample],
                    created_at=now,
                    size=self.size,
                    output_format=self.format,
                )
                self._looks[told.sample] += 1
                yield partial_image.type, partial_image
            case Result():
                for item in self.items(told):
                    done = CompletedImage(
                        b64_json=item.b64,
                        created_at=now,
                        size=self.size,
                        output_format=self.format,
                        seed=item.seed,
                        receipt=item.receipt,
                    )
                    yield done.type, done
            case Error():
                yield "error", errors.body(from_engine(EngineError(told.code, told.detail)))


@router.post(
    "/v1/images/generations",
    summary="Sample images, for OpenAI's SDKs",
    tags=["openai"],
    openapi_extra=needs("generate"),
)
async def images(request: Request) -> Response:
    """The prompt is the name of a label. Always `b64_json`; `stream` with `partial_images`."""
    service = core.of(request)
    body = await bodies.read_json(request, ImageRequest)
    telling = prepare(service, body)
    if body.stream:
        first, events = await service.begin(request, telling.call.message)
        told = follow(first, events, service.settings.heartbeat)
        return EventStream(calls.frames(service, telling.frame, told))
    if body.partial_images:
        raise invalid("partial_images", "needs a stream", 0)
    done = await service.run(request, telling.call.message)
    items = await service.in_thread(partial(telling.items, done))
    data = [ImageDatum(b64_json=i.b64, seed=i.seed, receipt=i.receipt) for i in items]
    answer = ImageList(
        created=int(time.time()), data=data, output_format=telling.format, size=telling.size
    )
    return Response(answer.model_dump_json(), media_type=JSON)


def prepare(service: core.Service, body: ImageRequest) -> Telling:
    """The call that a body means; a Problem where there is no such model, label or size."""
    card = service.card(body.model)
    size = f"{card.size[-1]}x{card.size[-2]}"
    if body.size not in (None, "auto", size):
        raise invalid("size", "is not the model's", size)
    format: OutputFormat = body.output_format or "png"
    asked = GenerateRequest.model_validate(
        {
            "model": card.name,
            "label": body.prompt,
            "n": body.n or 1,
            "seed": body.seed,
            "format": format,
            "stream": bool(body.stream),
            "previews": body.partial_images or 0,
        }
    )
    generate.find_label(body.prompt, card.labels, "prompt")
    return Telling(service.ready(), generate.prepare(service, asked, None, JSON), size, format)
