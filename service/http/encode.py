"""POST /encode: a picture to its latent, and to its bitrate."""

from __future__ import annotations

import base64
import hashlib
import math
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from unified_latents.service.engine.messages import Array, Bitrate, Encode, ModelCard
from unified_latents.service.http import bodies, core, images
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import JSON, LATENT, choose
from unified_latents.service.http.schemas import BitrateReport, EncodeQuery, EncodeResponse

router = APIRouter()


@router.post("/encode", summary="Encode a picture", tags=["latents"])
async def encode(request: Request, query: Annotated[EncodeQuery, Query()]) -> Response:
    """The picture is brought to the model's size as `fit` says, and the answer says how.

    `crop` resizes the short side and crops the centre; `pad` only scales down and pads as in
    training; `exact` refuses another size. JSON by default;
    `Accept: application/vnd.ul.latent+safetensors` gives the file, with the rest in headers.
    """
    service = core.of(request)
    card = service.card(query.model)
    choice = choose(core.accept(request), wanted=None, fallback="latents", bare=("latents",))
    data = await bodies.read_image(request)
    limit = service.settings.max_pixels
    size = (card.size[0], card.size[1])
    fitted = await service.in_thread(
        lambda: images.fit(images.decode(data, limit), size, card.preprocessing, query.fit)
    )
    message = Encode(
        id=0,
        model=card.name,
        strict=query.strict,
        seed=core.seed_or_random(query.seed),
        image=Array((card.channels, *size), "uint8", fitted.pixels),
        kind="z_clean" if query.mode == "mean" else "z_0",
        levels=query.levels if query.bitrate else 0,
    )
    done = await service.run(request, message)
    if done.latents is None:
        raise TypeError("the engine's result holds no latent")
    file = write(done.latents, message.kind, card)
    body = _body(file, message, card, fitted.report, done.bitrate)
    return _file(file, body) if choice.bare else Response(body.model_dump_json(), media_type=JSON)


def _body(
    file: bytes,
    message: Encode,
    card: ModelCard,
    fit: images.FitReport,
    bitrate: Bitrate | None,
) -> EncodeResponse:
    return EncodeResponse(
        model=card.name,
        latent=base64.b64encode(file).decode(),
        media_type=LATENT,
        kind=message.kind,
        shape=[1, *card.latent_shape],
        latent_space=card.latent_space,
        seed=message.seed,
        sha256=hashlib.sha256(file).hexdigest(),
        fit=fit,
        bitrate=report(bitrate, card, message.levels) if bitrate else None,
    )


def report(bitrate: Bitrate, card: ModelCard, levels: int) -> BitrateReport:
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


def _file(file: bytes, body: EncodeResponse) -> Response:
    headers = {"UL-Seed": str(body.seed), "UL-Fit": body.fit.model_dump_json(ensure_ascii=True)}
    if body.bitrate:
        headers["UL-Bitrate"] = body.bitrate.model_dump_json()
    return Response(file, media_type=LATENT, headers=headers)
