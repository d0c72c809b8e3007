"""Reading request bodies: the content type decides, and what it promises is checked."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from unified_latents.service.http.negotiation import JSON, LATENT
from unified_latents.service.http.problems import (
    FieldError,
    Problem,
    invalid,
    validation_problem,
)
from unified_latents.service.http.schemas import EncodeBody

IMAGES = ("image/png", "image/jpeg", "image/webp")
CLIPS = ("video/mp4", "video/webm", "image/gif", "image/apng")
FORM = "multipart/form-data"
BINARY = "application/octet-stream"
MAX_JSON = 64 * 1024
"""Bytes of a JSON body, a picture in it aside."""
_MAX_FIELDS = 4
_MAX_COLONS = 64
"""Of a JSON body longer than that: as many fields as it can have. A receipt has half of them."""

B = TypeVar("B", bound=BaseModel)


def content_type(request: Request, *allowed: str) -> str:
    """The body's media type; a 415 names what is allowed."""
    stated = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if stated not in allowed:
        raise _unsupported("Content-Type", ", ".join(allowed))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("Content-Encoding", "identity")
    return stated


def _unsupported(field: str, allowed: str) -> Problem:
    message = "is missing or not supported here"
    error = FieldError(field=field, message=message, limit=allowed)
    return Problem(415, "unsupported_media_type", f"{field}: {message}", [error])


async def read_json(request: Request, schema: type[B]) -> B:
    """A JSON body of `schema`."""
    content_type(request, JSON)
    body = await request.body()
    if len(body) > MAX_JSON:
        raise _too_long()
    return parse_json(body, schema)


async def read_files(request: Request, schema: type[B]) -> B:
    """A JSON body with files in it as base64: long strings, but not many of them."""
    content_type(request, JSON)
    return _with_files(await request.body(), schema)


def _with_files(body: bytes, schema: type[B]) -> B:
    """A few large strings in a small object: without them the body is as short as others."""
    if len(body) > MAX_JSON and body.count(b":") > _MAX_COLONS:
        raise _too_long()
    return parse_json(body, schema)


def parse_json(body: bytes, schema: type[B]) -> B:
    """Strict: NaN, ±∞, unknown fields and wrong types are a 422."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise validation_problem(error) from None


async def read_image(request: Request) -> bytes:
    """The bytes of a picture or a clip: raw, as the form field `image`, or base64 in JSON."""
    kind = content_type(request, *IMAGES, *CLIPS, FORM, JSON)
    if kind == JSON:
        return from_base64("image", _with_files(await request.body(), EncodeBody).image)
    if kind == FORM:
        return await _form_image(request)
    return present(await request.body())


def _too_long() -> Problem:
    message = "the JSON is too long"
    error = FieldError(field="body", message=message, limit=MAX_JSON)
    return Problem(413, "body_too_large", message, [error])


async def _form_image(request: Request) -> bytes:
    await request.body()  # kept whole: an idempotency key stands for it
    try:
        return await _only_file(request)
    except HTTPException as error:
        raise invalid("image", "must be the only file of a well-formed form", 1) from error


async def _only_file(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
        unknown = [name for name in form if name != "image"]
        if unknown or len(form.getlist("image")) != 1:
            raise invalid("image", "must be the form's only field", 1)
        part = form["image"]
        if not isinstance(part, UploadFile):
            raise invalid("image", "must be a file")
        return present(await part.read())


async def read_latent(request: Request) -> bytes:
    """A raw safetensors body."""
    content_type(request, LATENT, BINARY)
    return await request.body()


async def read_form(request: Request, file: str) -> tuple[dict[str, str], bytes | None]:
    """The texts of a form by name, and the file of its one field that may have one."""
    await request.body()  # kept whole: an idempotency key stands for it
    texts: dict[str, str] = {}
    found: bytes | None = None
    try:
        async with request.form(max_files=1, max_fields=_MAX_COLONS) as form:
            for name, part in form.multi_items():
                if isinstance(part, UploadFile):
                    if name != file:
                        raise invalid(file, "must be the form's only file", 1)
                    found = present(await part.read(), file)
                elif texts.setdefault(name, part) is not part:
                    raise invalid("body", "names a field twice", 1)
    except HTTPException as error:
        raise invalid("body", "must be a well-formed form", _MAX_COLONS) from error
    return texts, found


def from_base64(field: str, text: str) -> bytes:
    """Standard base64, nothing else in it."""
    try:
        return present(base64.b64decode(text, validate=True), field)
    except (binascii.Error, ValueError) as error:
        raise invalid(field, "is not base64") from error


def present(data: bytes, field: str = "image") -> bytes:
    """The bytes of a field that must have some."""
    if not data:
        raise invalid(field, "is empty")
    return data
