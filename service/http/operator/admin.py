"""POST /admin/models/{name}/reload: another checkpoint under a served name, while it is served.

The engine loads it beside the old one and runs its canary; rows on their way finish on the old one.
Where anything is wrong with it, nothing has changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from pydantic import Field

from unified_latents.service.engine.messages import ModelCard
from unified_latents.service.http import bodies, core
from unified_latents.service.http.access.guard import needs
from unified_latents.service.http.operator.about import entry
from unified_latents.service.http.problems import FieldError, Problem, invalid
from unified_latents.service.http.schemas import Body, ModelEntry
from unified_latents.service.settings import Settings

router = APIRouter()


class ReloadRequest(Body):
    """What to load; without a path, the folder that the service was started with, read again."""

    path: str | None = Field(
        None, min_length=1, max_length=1024, description="A folder below UL_MODELS_ROOT."
    )
    allow_new_space: bool = Field(
        False, description="Allow latents of another space: those in use are refused from then on."
    )


@router.post(
    "/admin/models/{name}/reload",
    summary="Load a checkpoint anew",
    tags=["service"],
    openapi_extra=needs("admin"),
)
async def reload(
    request: Request, name: Annotated[str, PathParameter(max_length=64)]
) -> ModelEntry:
    """The model as it is served from now on.

    409 `load_failed` says what is wrong with a checkpoint, 409 `latent_space_mismatch` that its
    latents are of another space.
    """
    service = core.of(request)
    body = await bodies.read_json(request, ReloadRequest)
    old = service.card(name)
    path = folder(service.settings, old.name, body.path)
    if not body.allow_new_space:
        await service.in_thread(lambda: check_space(Path(path), old))
    card = await service.engine.reload(old.name, path, other_space=body.allow_new_space)
    return entry(card, service.ready())


def folder(settings: Settings, name: str, path: str | None) -> str:
    """The folder to read; a 422 for one that is not below the root of all models."""
    if path is None:
        return settings.served[name]
    root = settings.models_root
    if root is None:
        raise invalid("path", "is only for services with a UL_MODELS_ROOT")
    try:
        found = (root / path).resolve()
        allowed = found.is_dir() and found.is_relative_to(root.resolve())
    except (OSError, ValueError):
        allowed = False
    if not allowed:
        raise invalid("path", "is no folder below UL_MODELS_ROOT")
    return str(found)


def check_space(path: Path, old: ModelCard) -> None:
    """A 409 where the manifest names another latent space; whatever else it is, the engine says."""
    try:
        space = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["latent_space"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if space != old.latent_space:
        message = "the checkpoint's latents are of another space; allow_new_space allows that"
        error = FieldError(field="path", message=message, limit=old.latent_space)
        raise Problem(409, "latent_space_mismatch", message, [error])
