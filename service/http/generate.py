"""POST /generate: a label and a seed, and first frames, to images or clips, or to latents."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from unified_latents.service.engine.messages import Array, Generate, ModelCard, Trajectory
from unified_latents.service.http import bodies, calls, core, frames
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.negotiation import choose
from unified_latents.service.http.problems import FieldError, Problem, invalid
from unified_latents.service.http.schemas import GenerateRequest, Label
from unified_latents.service.jobs.calls import Call

router = APIRouter()


@router.post(
    "/generate",
    summary="Sample images from a label",
    tags=["images"],
    openapi_extra=needs("generate"),
)
async def generate(request: Request) -> Response:
    """Same request, same seed: same bytes, whatever else the service is doing.

    JSON by default. `Accept: image/png` (webp, jpeg) with n = 1 gives the image alone, with its
    receipt in the `UL-Receipt` header. `stream: true`, or `Accept: text/event-stream`, gives the
    events `accepted`, `progress`, `preview`, `result` (the JSON) and `error`.
    """
    body = await bodies.read_files(request, GenerateRequest)
    service = core.of(request)
    known = await frames.known(service, body.frames, service.card(body.model))
    return await calls.answer_as_asked(request, partial(prepare, service, body, known), body)


def prepare(service: core.Service, body: GenerateRequest, known: Array | None, accept: str) -> Call:
    """What a body asks for; a Problem where the model or the service cannot."""
    card = service.card(body.model)
    if body.n > service.settings.max_samples:
        limit = service.settings.max_samples
        raise invalid("n", f"must be at most {limit}", limit)
    files = frames.formats(card, body.format)
    bare = (*files, "latents") if body.n == 1 else ("latents",)
    choice = choose(accept, wanted=body.format, fallback=files[0], bare=bare)
    message = to_message(body, card, known, decode=choice.format != "latents")
    return Call(message, choice.format, choice.bare)


def to_message(
    body: GenerateRequest, card: ModelCard, known: Array | None, *, decode: bool
) -> Generate:
    """The engine's request, the model's defaults filled in; a Problem where they do not fit."""
    if card.kind != "generator":
        message = "this model has no base model: it can encode and decode"
        raise Problem(409, "no_base_model", message, [FieldError(field="model", message=message)])
    defaults, said = card.defaults, body.model_fields_set
    return Generate(
        id=0,
        model=card.name,
        strict=body.strict,
        priority=body.priority,
        timeout=body.timeout,
        previews=body.previews,
        seed=core.seed_or_random(body.seed),
        first=0,
        n=body.n,
        label=find_label(body.label, card.labels),
        base=Trajectory(
            body.steps.base or defaults.base.steps,
            body.sampler.base or defaults.base.sampler,
        ),
        guidance=defaults.guidance if body.guidance is None else body.guidance,
        interval=body.guidance_interval if "guidance_interval" in said else defaults.interval,
        levels=(card.lambda_1, card.lambda_0),
        decode=Trajectory(
            body.steps.decode or defaults.decode.steps,
            body.sampler.decode or defaults.decode.sampler,
        )
        if decode
        else None,
        frames=known,
    )


def find_label(label: Label, labels: tuple[str, ...], field: str = "label") -> int:
    """A label's index; null is the class after the last one, which stands for none.

    A Problem about `field` where there is no such label.
    """
    if label is None:
        return len(labels)
    if isinstance(label, int):
        if label < len(labels):
            return label
        raise invalid(field, "no such label", len(labels) - 1)
    folded = label.strip().casefold()
    for i, name in enumerate(labels):
        if name.casefold() == folded:
            return i
    raise invalid(field, "no such label", ", ".join(labels)[:1000])
