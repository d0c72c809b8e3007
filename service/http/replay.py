"""POST /replay: a receipt's run once more, and whether the same bytes came out.

Equal bytes are promised between engines of one numerics id, and picture files besides of one codec.
Elsewhere a tolerance is promised, that of the canary: 1e-3 in a latent, 2/255 in a picture.
"""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from unified_latents.service.engine.lengths import stride, windows
from unified_latents.service.engine.messages import (
    Array,
    Decode,
    Encode,
    Generate,
    ModelCard,
    Ready,
    Trajectory,
)
from unified_latents.service.engine.messages import Request as EngineRequest
from unified_latents.service.http import bodies, clips, core, frames, latents
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.answers import Receipts, rows
from unified_latents.service.http.negotiation import JSON, MEDIA_TYPES
from unified_latents.service.http.problems import FieldError, Problem, invalid
from unified_latents.service.http.schemas import Receipt, ReplayRequest, ReplayResponse
from unified_latents.service.settings import Settings

LATENT_TOLERANCE = 1e-3
IMAGE_TOLERANCE = 2.0
_ENGINE = ("kernel_set", "numerics")
"""What a receipt says of the engine alone."""

router = APIRouter()


class Rerun(NamedTuple):
    """What the engine is asked, and the digest of the picture that it is asked about."""

    message: EngineRequest
    source: str | None = None


@router.post(
    "/replay", summary="Run a receipt again", tags=["service"], openapi_extra=needs("replay")
)
async def replay(request: Request) -> Response:
    """200 with the result where the digest is the same, or within `tolerance` of `original`.

    409 otherwise: `model_mismatch`, `numerics_mismatch`, `digest_mismatch` or
    `tolerance_exceeded`. A latent's bitrate is not part of its bytes and is not run again.
    """
    service = core.of(request)
    body = await bodies.read_files(request, ReplayRequest)
    receipt, ready = body.receipt, service.ready()
    card = by_digest(ready, receipt.digest)
    _check_format(receipt, card)
    same = _same_numerics(receipt, ready)
    if not same and not body.tolerance:
        raise _numerics_mismatch(receipt, ready)
    original = _original(body)
    rerun = await service.in_thread(lambda: _rerun(body, card, service.settings))
    receipts = Receipts(ready, card, rerun.message, receipt.format, rerun.source, receipt.fit)
    _check_written(receipt, receipts.of(0, b"", n=receipt.n), same=same)
    data = await _run(request, rerun, receipt, card)
    fresh = receipts.of(0, data, n=receipt.n)
    match = fresh.sha256 == receipt.sha256
    if not match and same and (receipt.strict or not body.tolerance):
        raise _digest_mismatch(receipt, fresh)
    answer = ReplayResponse(
        match=match,
        sha256=fresh.sha256,
        tolerance=LATENT_TOLERANCE if receipt.format == "latents" else IMAGE_TOLERANCE,
        receipt=fresh,
        media_type=MEDIA_TYPES[receipt.format],
        b64=base64.b64encode(data).decode(),
    )
    if original is not None:
        measure = partial(difference, (original, data), receipt, card, service.settings)
        answer.difference = await service.in_thread(measure)
        if answer.difference > answer.tolerance:
            raise _tolerance_exceeded(answer.difference, answer.tolerance)
    return Response(answer.model_dump_json(), media_type=JSON)


async def _run(request: Request, rerun: Rerun, receipt: Receipt, card: ModelCard) -> bytes:
    """The file that the engine's result makes."""
    service = core.of(request)
    done = await service.run(request, rerun.message)
    made = done.latents if receipt.format == "latents" else done.images
    if made is None:
        raise TypeError("the engine's result holds nothing of the receipt's format")
    if receipt.format == "latents":
        return latents.write(made, receipt.kind or "z_0", card)
    format = receipt.format
    return (await service.in_thread(lambda: clips.save(made, format)))[0]


def by_digest(ready: Ready, digest: str) -> ModelCard:
    """The loaded model with these weights, whatever its name here; a 409 where there is none."""
    found = next((card for card in ready.models if card.digest == digest), None)
    if found is None:
        message = "no loaded model has this digest"
        limit = ", ".join(card.digest for card in ready.models)
        error = FieldError(field="receipt.digest", message=message, limit=limit)
        raise Problem(409, "model_mismatch", message, [error])
    return found


def _same_numerics(receipt: Receipt, ready: Ready) -> bool:
    same = receipt.numerics == ready.numerics(receipt.strict)
    reads_or_writes = receipt.format != "latents" or receipt.operation == "encode"
    return same and (not reads_or_writes or receipt.codec == clips.codec(receipt.format))


def _numerics_mismatch(receipt: Receipt, ready: Ready) -> Problem:
    here = ready.numerics(receipt.strict)
    other = receipt.numerics != here
    field, limit = ("numerics", here) if other else ("codec", clips.codec(receipt.format))
    message = "is another than here, where equal bytes are not promised; tolerance=true compares"
    error = FieldError(field=f"receipt.{field}", message=message, limit=limit)
    return Problem(409, "numerics_mismatch", f"{error.field}: {message}", [error])


def _digest_mismatch(receipt: Receipt, fresh: Receipt) -> Problem:
    message = f"the run gave {fresh.sha256}, the receipt says {receipt.sha256}"
    if not receipt.strict:
        message += "; without strict mode, neighbours in a batch may move the last bits"
    error = FieldError(field="receipt.sha256", message=message, limit=fresh.sha256)
    return Problem(409, "digest_mismatch", message, [error])


def _tolerance_exceeded(difference: float, tolerance: float) -> Problem:
    message = f"differs by {difference:g}"
    error = FieldError(field="original", message=message, limit=tolerance)
    return Problem(409, "tolerance_exceeded", f"original: {message}", [error])


def _original(body: ReplayRequest) -> bytes | None:
    if body.original is None:
        return None
    data = bodies.from_base64("original", body.original)
    if hashlib.sha256(data).hexdigest() != body.receipt.sha256:
        raise invalid("original", "is not the file that the receipt is of", body.receipt.sha256)
    return data


def _check_format(receipt: Receipt, card: ModelCard) -> None:
    files = frames.formats(card, None)
    known = {
        "generate": (*files, "latents"),
        "decode": files,
        "encode": ("latents",),
    }[receipt.operation]
    if receipt.format not in known:
        raise invalid("receipt.format", "is none of this model's", ", ".join(known))


def _check_written(receipt: Receipt, ours: Receipt, *, same: bool) -> None:
    """A 422 about a field that the run does not need and that we would have written otherwise."""
    apart = {"model", "codec", "sha256"} if same else {"model", "codec", "sha256", *_ENGINE}
    said, written = receipt.model_dump(exclude=apart), ours.model_dump(exclude=apart)
    for field, value in written.items():
        if said[field] != value:
            raise invalid(f"receipt.{field}", "does not fit the rest of the receipt", str(value))


def _rerun(body: ReplayRequest, card: ModelCard, settings: Settings) -> Rerun:
    """The engine's request again; a 422 where the receipt is not one that we wrote."""
    receipt = body.receipt
    if receipt.n > (settings.max_samples if receipt.format == "latents" else 1):
        raise invalid("receipt.n", "is too large", settings.max_samples)
    if receipt.operation == "generate":
        return Rerun(_generate(receipt, card, _shown(body, card, settings.max_pixels)))
    if body.input is None:
        raise invalid("input", "required: the receipt is of something that was sent")
    data = bodies.from_base64("input", body.input)
    if receipt.operation == "decode":
        return Rerun(_decode(receipt, card, data, settings))
    return Rerun(_encode(receipt, card, data, settings), receipt.input_sha256)


def _shown(body: ReplayRequest, card: ModelCard, max_pixels: int) -> Array | None:
    """The frames that a clip went on from: those of the input's file."""
    digest = body.receipt.input_sha256
    if digest is None:
        if body.input is not None:
            raise invalid("input", "the receipt is of nothing that was sent")
        return None
    if body.input is None:
        raise invalid("input", "required: the receipt is of a clip that goes on from frames")
    known = frames.shown([bodies.from_base64("input", body.input)], card, max_pixels)
    if hashlib.sha256(known.data).hexdigest() != digest:
        raise _other_input(body.receipt)
    return known


def _generate(receipt: Receipt, card: ModelCard, known: Array | None) -> Generate:
    if card.kind != "generator" or receipt.guidance is None:
        raise invalid("receipt.operation", "does not fit the model or the receipt")
    if receipt.label is None or receipt.label > len(card.labels):
        raise invalid("receipt.label", "no such label", len(card.labels))
    return Generate(
        id=0,
        model=card.name,
        strict=receipt.strict,
        seed=receipt.seed,
        first=receipt.sample,
        n=receipt.n,
        label=receipt.label,
        base=_trajectory(receipt, "base"),
        guidance=receipt.guidance,
        interval=receipt.guidance_interval,
        levels=(card.lambda_1, card.lambda_0),
        decode=None if receipt.format == "latents" else _trajectory(receipt, "decode"),
        frames=known,
    )


def _decode(receipt: Receipt, card: ModelCard, data: bytes, settings: Settings) -> Decode:
    """The row of the latent's file whose digest the receipt holds."""
    latent = latents.read(data, card, settings.max_samples, frames.most(card, settings))
    digest = receipt.input_sha256
    row = next((row for row in rows(latent.z) if hashlib.sha256(row).hexdigest() == digest), None)
    if row is None or latent.kind != receipt.kind:
        raise _other_input(receipt)
    if receipt.format == "latents":
        raise invalid("receipt.format", "must be that of a picture")
    return Decode(
        id=0,
        model=card.name,
        strict=receipt.strict,
        seed=receipt.seed,
        first=receipt.sample,
        z=Array((1, *latent.z.shape[1:]), "float32", row),
        kind=latent.kind,
        decode=_trajectory(receipt, "decode"),
        windows=windows(card, latent.z.shape[2]),
    )


def _encode(receipt: Receipt, card: ModelCard, data: bytes, settings: Settings) -> Encode:
    if hashlib.sha256(data).hexdigest() != receipt.input_sha256:
        raise _other_input(receipt)
    if receipt.fit is None or receipt.kind is None or receipt.format != "latents":
        raise invalid("receipt.fit", "fit, kind and the format latents are needed for an encoding")
    image, _ = frames.fitted(data, card, receipt.fit, settings)
    return Encode(
        id=0,
        model=card.name,
        strict=receipt.strict,
        seed=receipt.seed,
        image=image,
        kind=receipt.kind,
        levels=0,
        windows=windows(card, image.shape[1] // stride(card)),
    )


def _trajectory(receipt: Receipt, stage: Literal["base", "decode"]) -> Trajectory:
    steps, sampler = receipt.steps.get(stage), receipt.sampler.get(stage)
    if steps is None or sampler is None:
        raise invalid(f"receipt.steps.{stage}", "steps and sampler are required")
    return Trajectory(steps, sampler)


def _other_input(receipt: Receipt) -> Problem:
    return invalid("input", "is not what the receipt was made from", receipt.input_sha256)


def difference(
    files: tuple[bytes, bytes], receipt: Receipt, card: ModelCard, settings: Settings
) -> float:
    """The largest difference of two files: in latent units, or in steps of 255."""
    if receipt.format != "latents":
        return clips.difference(*files, "original")
    one, other = (_values(file, card, receipt.n, settings) for file in files)
    if one.shape != other.shape:
        raise invalid("original", "has another shape", str(list(other.shape)))
    return float(np.abs(one - other).max())


def _values(file: bytes, card: ModelCard, n: int, settings: Settings) -> NDArray[np.float64]:
    z = latents.read(file, card, n, frames.most(card, settings)).z
    return np.frombuffer(z.data, "<f4").reshape(z.shape).astype(np.float64)
