"""POST /encode: a picture to its latent, and to its bitrate."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from unified_latents.service.engine.lengths import stride, windows
from unified_latents.service.engine.messages import Encode
from unified_latents.service.http import bodies, calls, core, frames
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.negotiation import choose
from unified_latents.service.http.problems import invalid
from unified_latents.service.http.schemas import EncodeQuery
from unified_latents.service.jobs.calls import Call

router = APIRouter()


@router.post("/encode", summary="Encode a picture", tags=["latents"], openapi_extra=needs("encode"))
async def encode(request: Request, query: Annotated[EncodeQuery, Query()]) -> Response:
    """The picture is brought to the model's size as `fit` says, and the answer says how.

    `crop` resizes the short side and crops the centre; `pad` only scales down and pads as in
    training; `exact` refuses another size. A clip may be longer than the model's own: its windows
    are encoded, and blended where they overlap. JSON by default;
    `Accept: application/vnd.ul.latent+safetensors` gives the file, with the rest in headers.
    """
    data = await bodies.read_image(request)
    call = await prepare(core.of(request), query, data, core.accept(request))
    return await calls.reply(request, call)


async def prepare(service: core.Service, query: EncodeQuery, data: bytes, accept: str) -> Call:
    """What a query asks of the picture in `data`; a Problem where it is none, or too large."""
    card = service.card(query.model)
    choice = choose(accept, wanted=None, fallback="latents", bare=("latents",))
    settings = service.settings
    image, report = await service.in_thread(lambda: frames.fitted(data, card, query.fit, settings))
    if query.bitrate and image.shape[1:] != card.size:
        raise invalid("bitrate", "is that of clips of the model's own length", card.size[0])
    message = Encode(
        id=0,
        model=card.name,
        strict=query.strict,
        priority=query.priority,
        timeout=query.timeout,
        seed=core.seed_or_random(query.seed),
        image=image,
        kind="z_clean" if query.mode == "mean" else "z_0",
        levels=query.levels if query.bitrate else 0,
        windows=windows(card, image.shape[1] // stride(card)),
    )
    source = hashlib.sha256(data).hexdigest()
    return Call(message, choice.format, choice.bare, report.model_dump(mode="json"), source)
