"""POST /decode: latents to images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from unified_latents.service.engine.messages import Decode, ModelCard, Trajectory
from unified_latents.service.http import bodies, core, images, latents
from unified_latents.service.http.answers import Receipts, answer
from unified_latents.service.http.negotiation import Format, choose
from unified_latents.service.http.schemas import DecodeQuery

router = APIRouter()


@router.post("/decode", summary="Decode latents", tags=["latents"])
async def decode(request: Request, query: Annotated[DecodeQuery, Query()]) -> Response:
    """A `z_clean` is noised to λ(0) with the seed's own noise first; a `z_0` is taken as it is.

    PNG by default for one sample, JSON for several.
    """
    service = core.of(request)
    card = service.card(query.model)
    body = await bodies.read_latent(request)
    latent = latents.read(body, card, service.settings.max_samples)
    bare: tuple[Format, ...] = ("png", "webp", "jpeg") if latent.z.shape[0] == 1 else ()
    choice = choose(
        core.accept(request), wanted=query.format, fallback="png", bare=bare, prefer_bare=True
    )
    message = to_message(query, card, latent)
    done = await service.run(request, message)
    if done.images is None:
        raise TypeError("the engine's result holds no image")
    pixels = done.images
    files = await service.in_thread(lambda: images.encode(pixels, choice.format))
    return answer(Receipts(service.ready(), card, message), files, choice)


def to_message(query: DecodeQuery, card: ModelCard, latent: latents.Latent) -> Decode:
    """The engine's request, the model's defaults filled in."""
    defaults = card.defaults.decode
    return Decode(
        id=0,
        model=card.name,
        strict=query.strict,
        seed=core.seed_or_random(query.seed),
        first=query.sample,
        z=latent.z,
        kind=latent.kind,
        decode=Trajectory(query.steps or defaults.steps, query.sampler or defaults.sampler),
    )
