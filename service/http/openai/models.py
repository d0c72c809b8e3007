"""GET /v1/models: what is served, as OpenAI's API lists it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from unified_latents.service.http import core
from unified_latents.service.http.access.guard import ANY, needs
from unified_latents.service.http.openai.schemas import ModelList, ModelObject

router = APIRouter()


@router.get("/v1/models", summary="Models", tags=["openai"], openapi_extra=needs(ANY))
async def models(request: Request) -> ModelList:
    """Their names; GET /models says more."""
    cards = core.of(request).ready().models
    return ModelList(data=[ModelObject(id=card.name) for card in cards])


@router.get("/v1/models/{model}", summary="A model", tags=["openai"], openapi_extra=needs(ANY))
async def model(request: Request, model: Annotated[str, Path(max_length=64)]) -> ModelObject:
    """One of them by name."""
    return ModelObject(id=core.of(request).card(model).name)
