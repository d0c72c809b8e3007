"""The application: routes, middleware and errors around one engine."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from types import ModuleType

from fastapi import Depends, FastAPI

from unified_latents.service.engine.seam import Engine
from unified_latents.service.http import decode, encode, generate, openapi, problems, replay
from unified_latents.service.http.access.middleware import BodyLimit, RequestContext
from unified_latents.service.http.access.rebinding import LocalNames
from unified_latents.service.http.batches import routes as batches_routes
from unified_latents.service.http.batches.drive import drive
from unified_latents.service.http.core import Service, check_key
from unified_latents.service.http.jobs import routes as jobs_routes
from unified_latents.service.http.openai import errors, images, models, videos
from unified_latents.service.http.operator import about, admin
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.keys import KeyRing
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings, is_loopback

DESCRIPTION = """
Images to latents and back, and new ones from a label: Unified Latents (arXiv 2602.17270).

Every answer is a function of its request: the same seed gives the same bytes, and the receipt
says what they depend on. Latents travel as safetensors and carry the identity of their space.
"""

ROOMS = (
    generate,
    encode,
    decode,
    replay,
    jobs_routes,
    batches_routes,
    about,
    admin,
    images,
    models,
    videos,
)
"""All routes."""
WORKER_ROOMS = (about,)
"""Those of a worker: what it is, whether it works, and how much."""


def create_app(
    settings: Settings,
    engine: Engine,
    metrics: Metrics,
    ring: KeyRing | None = None,
    jobs: Jobs | None = None,
    *,
    rooms: Sequence[ModuleType] = ROOMS,
) -> FastAPI:
    """The ASGI application of some rooms; it starts `engine` and `jobs` and stops them.

    An empty ring asks nobody for a key.
    """

    app = FastAPI(
        title="Unified Latents",
        version=version("unified-latents"),
        description=DESCRIPTION,
        lifespan=partial(_lifespan, engine, jobs, rooms is ROOMS),
        dependencies=[Depends(check_key)],
    )
    app.state.service = Service(settings, engine, metrics, ring or KeyRing(), jobs)
    metrics.follow(lambda: engine.status)
    for room in rooms:
        app.include_router(room.router)
    problems.install(app, {errors.PREFIX: errors.response})
    app.add_middleware(BodyLimit, limit=settings.max_body)
    if not ring and is_loopback(settings.host):
        app.add_middleware(LocalNames, hosts=settings.hosts)
    app.add_middleware(RequestContext, metrics=metrics)
    if rooms is ROOMS:
        app.openapi = functools.cache(lambda: openapi.document(app, keys=bool(ring)))  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(
    engine: Engine, jobs: Jobs | None, serves_batches: bool, app: FastAPI
) -> AsyncIterator[None]:
    await engine.start()
    if jobs is not None:
        await jobs.start()
        if serves_batches:
            jobs.batches.begin(partial(drive, app.state.service, jobs))
    try:
        yield
    finally:
        if jobs is not None:
            await jobs.stop()
        await engine.stop()
