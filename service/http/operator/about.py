"""GET /models, /healthz, /readyz, /metrics, and / to the documentation."""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST

from unified_latents.service.engine.messages import ModelCard, Ready
from unified_latents.service.http import core
from unified_latents.service.http.access.guard import ANY, OPEN, needs
from unified_latents.service.http.problems import Problem, patience, unavailable
from unified_latents.service.http.schemas import Health, ModelEntry, ModelsResponse

router = APIRouter()


@router.get("/models", summary="What is served", tags=["service"], openapi_extra=needs(ANY))
async def models(request: Request) -> ModelsResponse:
    """Each model's labels, sizes, defaults, and the licence and source of its data."""
    ready = core.of(request).ready()
    return ModelsResponse(models=[entry(card, ready) for card in ready.models])


def entry(card: ModelCard, ready: Ready) -> ModelEntry:
    """One model as /models shows it."""
    defaults = card.defaults
    return ModelEntry(
        name=card.name,
        kind=card.kind,
        digest=card.digest,
        labels=list(card.labels),
        size=list(card.size),
        channels=card.channels,
        preprocessing=msgspec.to_builtins(card.preprocessing),
        latent={
            "shape": list(card.latent_shape),
            "space": card.latent_space,
            "lambda_0": card.lambda_0,
        },
        defaults={
            "steps": {"base": defaults.base.steps, "decode": defaults.decode.steps},
            "sampler": {"base": defaults.base.sampler, "decode": defaults.decode.sampler},
            "guidance": defaults.guidance,
            "guidance_interval": defaults.interval,
        },
        data=msgspec.to_builtins(card.data),
        licence=card.licence,
        kernel_set=ready.kernel_set,
        compiled=list(card.compiled),
        kernel_fallback=ready.kernel_fallback,
        cuda_graphs=ready.graphs,
        numerics={"strict": ready.numerics_strict, "fast": ready.numerics_fast},
        canary=msgspec.to_builtins(card.canary),
    )


@router.get(
    "/healthz", summary="Is the service alive?", tags=["service"], openapi_extra=needs(OPEN)
)
async def healthz(request: Request) -> Health:
    """200 while the API answers and its engine runs or is being replaced; 503 when it gave up."""
    service = core.of(request)
    status = service.engine.status
    if status.state in ("failed", "stopped"):
        detail = status.detail or f"the engine is {status.state}"
        raise unavailable("engine_failed", detail, patience(status))
    return _health("alive", service)


@router.get(
    "/readyz", summary="Would a request be answered?", tags=["service"], openapi_extra=needs(OPEN)
)
async def readyz(request: Request, need: Literal["jobs"] | None = None) -> Health:
    """200 when the engine is up and every model has reproduced its recorded canary run.

    Pictures need no job store: only with `need=jobs` is one that does not answer a 503.
    """
    service = core.of(request)
    status = service.engine.status
    if service.draining:
        raise unavailable("shutting_down", "the service is shutting down")
    if status.state != "ready":
        detail = f": {status.detail}" if status.detail else ""
        what = f"the engine is {status.state}{detail}"
        raise unavailable("not_ready", what, patience(status))
    failing = [card.name for card in service.ready().models if not card.canary.ok]
    if failing:
        raise unavailable("canary_failed", f"the canary failed for {', '.join(failing)}")
    health = _health("ready", service)
    if need == "jobs" and health.jobs == "off":
        raise Problem(404, "jobs_disabled", "this service runs without jobs")
    if (need == "jobs" or service.needs_jobs) and health.jobs == "down":
        raise unavailable("jobs_unavailable", f"jobs are {health.jobs}")
    return health


@router.get(
    "/metrics", summary="Prometheus metrics", tags=["service"], openapi_extra=needs("metrics")
)
async def metrics(request: Request) -> Response:
    """The text format that Prometheus scrapes."""
    return Response(core.of(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False, openapi_extra=needs(OPEN))
async def root() -> RedirectResponse:
    """To the documentation."""
    return RedirectResponse("/docs")


def _health(word: str, service: core.Service) -> Health:
    ready = service.engine.ready
    cards = ready.models if ready else ()
    canaries = {card.name: "ok" if card.canary.ok else "failed" for card in cards}
    jobs = "off" if service.jobs is None else ("up" if service.jobs.up else "down")
    state = service.engine.status.state
    return Health.model_validate(
        {"status": word, "engine": state, "models": canaries, "jobs": jobs}
    )
