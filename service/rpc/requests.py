"""Messages as the bodies that HTTP validates, and those as calls."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, TypeVar

from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError

from unified_latents.service.http import bodies, core, decode, encode, frames, generate, schemas
from unified_latents.service.http.negotiation import JSON
from unified_latents.service.http.problems import validation_problem
from unified_latents.service.jobs.calls import Call
from unified_latents.service.rpc.proto import ul_pb2

_LABELS = ("label_name", "label_index", "unlabelled")

B = TypeVar("B", bound=BaseModel)


async def generate_call(
    service: core.Service, message: ul_pb2.GenerateRequest, timeout: float | None
) -> Call:
    """What a message asks for; a Problem as POST /generate would answer it."""
    said = _said(message, {"frames", "guidance_interval", *_LABELS})
    if label := message.WhichOneof("label"):
        said["label"] = None if label == "unlabelled" else getattr(message, label)
    if where := message.guidance_interval.WhichOneof("where"):
        within = message.guidance_interval.within
        said["guidance_interval"] = (within.lo, within.hi) if where == "within" else None
    body = _valid(schemas.GenerateRequest, said, timeout)
    known = await frames.of_files(service, message.frames, service.card(body.model))
    return generate.prepare(service, body, known, JSON)


async def encode_call(
    service: core.Service, message: ul_pb2.EncodeRequest, timeout: float | None
) -> Call:
    """What a message asks for; a Problem as POST /encode would answer it."""
    query = _valid(schemas.EncodeQuery, _said(message, {"image"}), timeout)
    return await encode.prepare(service, query, bodies.present(message.image), JSON)


async def decode_call(
    service: core.Service, message: ul_pb2.DecodeRequest, timeout: float | None
) -> Call:
    """What a message asks for; a Problem as POST /decode would answer it."""
    query = _valid(schemas.DecodeQuery, _said(message, {"latent"}), timeout)
    return decode.prepare(service, query, bodies.present(message.latent, "latent"), JSON)


def _said(message: Message, without: Set[str] = frozenset()) -> dict[str, Any]:
    """The fields that a message sets, by name."""
    return {
        field.name: _said(value) if isinstance(value, Message) else value
        for field, value in message.ListFields()
        if field.name not in without
    }


def _valid(schema: type[B], said: Mapping[str, Any], timeout: float | None) -> B:
    try:
        return schema.model_validate({**said, "timeout": timeout})
    except ValidationError as error:
        raise validation_problem(error) from None
