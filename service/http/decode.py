"""POST /decode: latents to images."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from unified_latents.service.engine.lengths import windows
from unified_latents.service.engine.messages import Decode, ModelCard, Trajectory
from unified_latents.service.http import bodies, calls, core, frames, latents
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.negotiation import choose
from unified_latents.service.http.schemas import DecodeQuery
from unified_latents.service.jobs.calls import Call

router = APIRouter()


@router.post("/decode", summary="Decode latents", tags=["latents"], openapi_extra=needs("decode"))
async def decode(request: Request, query: Annotated[DecodeQuery, Query()]) -> Response:
    """A `z_clean` is noised to λ(0) with the seed's own noise first; a `z_0` is taken as it is.

    The file itself by default for one sample, JSON for several; `stream=true` gives events, as
    POST /generate. A clip is decoded with no frame known; one that is longer than the model's own,
    in windows that share their noise and every step.
    """
    body = await bodies.read_latent(request)
    made = partial(prepare, core.of(request), query, body)
    return await calls.answer_as_asked(request, made, query)


def prepare(service: core.Service, query: DecodeQuery, body: bytes, accept: str) -> Call:
    """What a query asks of the latents in `body`; a Problem where they do not fit."""
    card = service.card(query.model)
    settings = service.settings
    latent = latents.read(body, card, settings.max_samples, frames.most(card, settings))
    files = frames.formats(card, query.format)
    bare = files if latent.z.shape[0] == 1 else ()
    choice = choose(accept, wanted=query.format, fallback=files[0], bare=bare, prefer_bare=True)
    return Call(to_message(query, card, latent), choice.format, choice.bare)


def to_message(query: DecodeQuery, card: ModelCard, latent: latents.Latent) -> Decode:
    """The engine's request, the model's defaults filled in."""
    defaults = card.defaults.decode
    return Decode(
        id=0,
        model=card.name,
        strict=query.strict,
        priority=query.priority,
        timeout=query.timeout,
        previews=query.previews,
        seed=core.seed_or_random(query.seed),
        first=query.sample,
        z=latent.z,
        kind=latent.kind,
        decode=Trajectory(query.steps or defaults.steps, query.sampler or defaults.sampler),
        windows=windows(card, latent.z.shape[2]),
    )
