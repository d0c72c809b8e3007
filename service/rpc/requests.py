"""Messages as the bodies that HTTP validates, and those as calls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError

from unified_latents.service.http import bodies, core, decode, encode, frames, generate, schemas
from unified_latents.service.http.deferral.defer import Order
from unified_latents.service.http.deferral.views import JobOptions
from unified_latents.service.http.negotiation import JSON
from unified_latents.service.http.problems import invalid, validation_problem
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.runtime import Options
from unified_latents.service.rpc.proto import ul_pb2

_LABELS = ("label_name", "label_index", "unlabelled")

B = TypeVar("B", bound=BaseModel)


async def generate_call(
    service: core.Service,
    message: ul_pb2.GenerateRequest,
    timeout: float | None,
    accept: str = JSON,
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
    return generate.prepare(service, body, known, accept)


async def encode_call(
    service: core.Service, message: ul_pb2.EncodeRequest, timeout: float | None, accept: str = JSON
) -> Call:
    """What a message asks for; a Problem as POST /encode would answer it."""
    query = _valid(schemas.EncodeQuery, _said(message, {"image"}), timeout)
    return await encode.prepare(service, query, bodies.present(message.image), accept)


async def decode_call(
    service: core.Service, message: ul_pb2.DecodeRequest, timeout: float | None, accept: str = JSON
) -> Call:
    """What a message asks for; a Problem as POST /decode would answer it."""
    query = _valid(schemas.DecodeQuery, _said(message, {"latent"}), timeout)
    return decode.prepare(service, query, bodies.present(message.latent, "latent"), accept)


async def order(service: core.Service, message: ul_pb2.SubmitRequest) -> Order:
    """The job that a message asks for; a Problem as POST /jobs would answer it."""
    said = _said(message, {"generate", "encode", "decode", "idempotency_key", "deadline"})
    if message.HasField("deadline"):
        said["deadline"] = seconds(message.deadline)
    how = _checked(JobOptions, said)
    bare = ul_pb2.SubmitRequest()
    bare.CopyFrom(message)
    bare.ClearField("idempotency_key")
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
    key = message.idempotency_key if message.HasField("idempotency_key") else None
    options = Options(how.priority, how.deadline, how.webhook)
    return Order(await _later(service, message, how.accept), digest, options, key)


def seconds(span: Duration) -> float:
    """Of a span of any length, which a `timedelta` cannot hold."""
    return float(span.seconds + span.nanos / 1e9)


async def _later(service: core.Service, message: ul_pb2.SubmitRequest, accept: str) -> Call:
    """The call inside, without a deadline of its own."""
    match message.WhichOneof("call"):
        case "encode":
            return await encode_call(service, message.encode, None, accept)
        case "generate" if not message.generate.previews:
            return await generate_call(service, message.generate, None, accept)
        case "decode" if not message.decode.previews:
            return await decode_call(service, message.decode, None, accept)
        case None:
            raise invalid("call", "required", "generate | encode | decode")
    raise invalid("previews", "a job is looked at and has none", 0)


def _said(message: Message, without: Set[str] = frozenset()) -> dict[str, Any]:
    """The fields that a message sets, by name."""
    return {
        field.name: _said(value) if isinstance(value, Message) else value
        for field, value in message.ListFields()
        if field.name not in without
    }


def _valid(schema: type[B], said: Mapping[str, Any], timeout: float | None) -> B:
    return _checked(schema, {**said, "timeout": timeout})


def _checked(schema: type[B], said: Mapping[str, Any]) -> B:
    try:
        return schema.model_validate(said)
    except ValidationError as error:
        raise validation_problem(error) from None
