"""An HTTP problem as a gRPC status, with google.rpc's details of what was wrong."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from unified_latents.service.http.problems import Problem

DOMAIN = "unified-latents"
DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own name for when to come back; a negative number: never with this call."""
_REPEATED = ("retry-after-ms", "x-should-retry", "www-authenticate")
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    410: grpc.StatusCode.NOT_FOUND,
    416: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Failure(NamedTuple):
    """What a call ends with."""

    code: grpc.StatusCode
    detail: str
    trailing: tuple[tuple[str, str | bytes], ...]


def failure(problem: Problem, identity: str) -> Failure:
    """The end of the call `identity` that a problem makes."""
    code = code_of(problem.status)
    details: list[Message] = [_info(problem, identity)]
    if problem.errors:
        details.append(_violations(problem))
    headers = {name.lower(): value for name, value in problem.headers.items()}
    trailing: list[tuple[str, str | bytes]] = [
        (name, headers[name]) for name in _REPEATED if name in headers
    ]
    if headers.get("x-should-retry") == "false":
        trailing.append((PUSHBACK, "-1"))
    elif milliseconds := headers.get("retry-after-ms"):
        trailing.append((PUSHBACK, milliseconds))
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(int(milliseconds))
        details.append(retry)
    status = Status(code=code.value[0], message=problem.detail, details=map(_packed, details))
    return Failure(code, problem.detail, (*trailing, (DETAILS, status.SerializeToString())))


def code_of(status: int) -> grpc.StatusCode:
    """An HTTP status in gRPC's terms."""
    general = grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL
    return _CODES.get(status, general)


def _info(problem: Problem, identity: str) -> ErrorInfo:
    metadata = {"request_id": identity}
    if problem.errors:
        first = problem.errors[0]
        metadata["field"] = first.field
        if first.limit is not None:
            metadata["limit"] = str(first.limit)
    return ErrorInfo(reason=problem.code.upper(), domain=DOMAIN, metadata=metadata)


def _violations(problem: Problem) -> BadRequest:
    found = BadRequest()
    for error in problem.errors:
        limit = "" if error.limit is None else f" (limit: {error.limit})"
        found.field_violations.add(field=error.field, description=f"{error.message}{limit}")
    return found


def _packed(detail: Message) -> Packed:
    packed = Packed()
    packed.Pack(detail)
    return packed
