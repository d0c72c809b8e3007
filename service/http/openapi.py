"""The OpenAPI document: what the framework derives, and what it cannot see.

Bodies are parsed by us (strictly, and by content type), so their schemas, the binary forms and
the one error schema are added here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from unified_latents.service.http.batches.drive import JSONL
from unified_latents.service.http.bodies import BINARY, FORM, IMAGES
from unified_latents.service.http.deferral.views import JobRequest, JobView
from unified_latents.service.http.negotiation import EVENTS, JSON, LATENT, MEDIA_TYPES
from unified_latents.service.http.openai import errors
from unified_latents.service.http.openai.schemas import (
    ErrorBody,
    ImageList,
    ImageRequest,
    VideoForm,
    VideoRequest,
)
from unified_latents.service.http.operator.admin import ReloadRequest
from unified_latents.service.http.problems import MEDIA_TYPE, ProblemBody
from unified_latents.service.http.schemas import (
    EncodeBody,
    EncodeResponse,
    GenerateRequest,
    ImagesResponse,
    ReplayRequest,
    ReplayResponse,
)

_REF = "#/components/schemas/"
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_WORK = (429, 503, 504, 507)
"""What any work on the engine may end with."""
_ERRORS = {
    "/generate": (400, 404, 406, 409, 413, 415, 422, *_WORK),
    "/encode": (400, 404, 406, 413, 415, 422, *_WORK),
    "/decode": (400, 404, 406, 409, 413, 415, 422, *_WORK),
    "/replay": (400, 406, 409, 413, 415, 422, *_WORK),
    "/v1/images/generations": (400, 404, 409, 413, 415, *_WORK),
    "/v1/videos": (400, 404, 409, 413, 415, *_WORK),
    "/v1/videos/{identity}": (404, 409, 503),
    "/v1/videos/{identity}/content": (400, 404, 409, 410, 416, 503),
    "/v1/models": (503,),
    "/v1/models/{model}": (400, 404, 503),
    "/admin/models/{name}/reload": (400, 404, 409, 413, 415, 422, 503),
    "/models": (503,),
    "/jobs": (400, 404, 406, 409, 413, 415, 422, *_WORK),
    "/jobs/{identity}": (404, 409, 503),
    "/jobs/{identity}/events": (404, 503),
    "/admin/jobs/{identity}/redrive": (404, 409, 503),
    "/jobs/{identity}/result": (404, 409, 410, 416, 503),
    "/batches": (400, 404, 409, 413, 415, 422, 503),
    "/batches/{identity}": (404, 409, 503),
    "/batches/{identity}/output": (404, 409, 410, 416, 503),
    "/metrics": (),
    "/healthz": (503,),
    "/readyz": (404, 422, 503),
}
_PLACEHOLDERS = ("HTTPValidationError", "ValidationError")


def document(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """The whole document; `keys` says whether this service asks for them."""
    api = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = api.setdefault("components", {}).setdefault("schemas", {})
    for name in _PLACEHOLDERS:
        schemas.pop(name, None)
    schemas.update(_schemas())
    api["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    paths = api["paths"]
    for path, codes in _ERRORS.items():
        for operation in paths[path].values():
            operation["responses"].pop("422", None)
            guarded = (401, 403) if operation["security"] else ()
            if not keys:
                del operation["security"]
            told = _openai_error() if path.startswith(errors.PREFIX) else _problem()
            operation["responses"].update({str(code): told for code in (*codes, *guarded)})
    _describe_bodies(paths)
    _describe_jobs(paths)
    _describe_batches(paths)
    _describe_videos(paths)
    paths["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": _text()}
    return api


def _schemas() -> dict[str, Any]:
    _, definitions = models_json_schema(
        [
            (GenerateRequest, "validation"),
            (EncodeBody, "validation"),
            (ReplayRequest, "validation"),
            (ReplayResponse, "serialization"),
            (ImagesResponse, "serialization"),
            (EncodeResponse, "serialization"),
            (ProblemBody, "serialization"),
            (ImageRequest, "validation"),
            (ReloadRequest, "validation"),
            (ImageList, "serialization"),
            (VideoRequest, "validation"),
            (VideoForm, "validation"),
            (ErrorBody, "serialization"),
            (JobRequest, "validation"),
            (JobView, "serialization"),
        ],
        ref_template=_REF + "{model}",
    )
    found: dict[str, Any] = definitions["$defs"]
    return found


def _describe_bodies(paths: dict[str, Any]) -> None:
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {"type": "string", "format": "binary"}},
    }
    encode_inputs: dict[str, Any] = dict.fromkeys(IMAGES, _BYTES)
    encode_inputs |= {FORM: {"schema": form}, JSON: _json(EncodeBody)}
    pictures = {MEDIA_TYPES[name]: _BYTES for name in ("png", "webp", "jpeg")}
    _describe(
        paths["/generate"]["post"],
        {JSON: _json(GenerateRequest)},
        {JSON: _json(ImagesResponse), **pictures, LATENT: _BYTES, EVENTS: _event()},
    )
    _describe(
        paths["/encode"]["post"], encode_inputs, {JSON: _json(EncodeResponse), LATENT: _BYTES}
    )
    _describe(
        paths["/decode"]["post"],
        {LATENT: _BYTES, BINARY: _BYTES},
        {"image/png": _BYTES, JSON: _json(ImagesResponse), **pictures, EVENTS: _event()},
    )

    _describe(
        paths["/v1/images/generations"]["post"],
        {JSON: _json(ImageRequest)},
        {JSON: _json(ImageList), EVENTS: _event()},
    )
    reload = paths["/admin/models/{name}/reload"]["post"]
    reload["requestBody"] = {"required": True, "content": {JSON: _json(ReloadRequest)}}
    _describe(paths["/replay"]["post"], {JSON: _json(ReplayRequest)}, {JSON: _json(ReplayResponse)})


def _describe_jobs(paths: dict[str, Any]) -> None:
    """A job for an answer, and the answer of a job."""
    job = {"description": "The job", "content": {JSON: _json(JobView)}}
    for path in ("/generate", "/encode", "/decode"):
        paths[path]["post"]["responses"]["202"] = job
    submitted = paths["/jobs"]["post"]
    submitted["requestBody"] = {"required": True, "content": {JSON: _json(JobRequest)}}
    submitted["responses"] |= {"200": job, "202": job}
    paths["/jobs/{identity}"]["delete"]["responses"]["202"] = job
    events = paths["/jobs/{identity}/events"]["get"]["responses"]
    events["200"]["content"] = {EVENTS: _event()}
    events["204"] = {"description": "Nothing after the last event"}
    kinds = [JSON, LATENT, *(MEDIA_TYPES[name] for name in ("png", "webp", "jpeg"))]
    _describe_parts(paths["/jobs/{identity}/result"], kinds)


def _describe_batches(paths: dict[str, Any]) -> None:
    """JSON lines, in and out."""
    lines = {JSONL: _text()}
    paths["/batches"]["post"]["requestBody"] = {"required": True, "content": lines}
    cancelled = paths["/batches/{identity}"]["delete"]["responses"]
    cancelled["202"] = cancelled["200"]
    _describe_parts(paths["/batches/{identity}/output"], [JSONL])


def _describe_videos(paths: dict[str, Any]) -> None:
    """OpenAI's form, or the same as JSON; and a file."""
    inputs = {FORM: _json(VideoForm), JSON: _json(VideoRequest)}
    paths["/v1/videos"]["post"]["requestBody"] = {"required": True, "content": inputs}
    _describe_parts(paths["/v1/videos/{identity}/content"], [MEDIA_TYPES["mp4"]])


def _describe_parts(path: dict[str, Any], kinds: list[str]) -> None:
    """An answer that is kept: all of it, a part, or that it is the same still."""
    answers, content = path["get"]["responses"], dict.fromkeys(kinds, _BYTES)
    if JSON in content:
        content[JSON] = {}
    answers["200"]["content"] = content
    answers["206"] = {"description": "A part of it", "content": content}
    answers["304"] = {"description": "Known already"}


def _describe(operation: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    operation["requestBody"] = {"required": True, "content": inputs}
    operation["responses"]["200"]["content"] = outputs


def _json(schema: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REF + schema.__name__}}


def _problem() -> dict[str, Any]:
    return {"description": "Problem", "content": {MEDIA_TYPE: _json(ProblemBody)}}


def _openai_error() -> dict[str, Any]:
    return {"description": "Error", "content": {JSON: _json(ErrorBody)}}


def _event() -> dict[str, Any]:
    """Each event of a stream."""
    text = {"type": "string"}
    fields = {"event": text, "data": text, "id": text}
    return {"schema": {"type": "object", "required": ["event", "data"], "properties": fields}}


def _text() -> dict[str, Any]:
    return {"schema": {"type": "string"}}
