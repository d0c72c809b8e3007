"""Errors as RFC 9457 problems: a stable `code`, the fields at fault and their limits.

A body never repeats what the client sent, beyond the name of a field.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from unified_latents.service.engine.seam import EngineError, Status

MEDIA_TYPE = "application/problem+json"
_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_LIMITS = ("ge", "gt", "le", "lt", "max_length", "min_length", "expected", "pattern")
_MESSAGES = {
    "json_invalid": "not valid JSON",
    "extra_forbidden": "no such field",
    "missing": "required",
}
_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    410: "Gone",
    413: "Content too large",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    421: "Misdirected request",
    422: "Unprocessable content",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
    504: "Gateway timeout",
    507: "Insufficient storage",
}
_ENGINE = {"deadline_exceeded": 504, "out_of_memory": 507, "load_failed": 409}
_PASSING = ("not_ready", "busy", "shutting_down", "model_replaced")
_MAX_ERRORS = 16
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 400: "bad_request"}

log = logging.getLogger(__name__)


class FieldError(BaseModel):
    """One field at fault; `limit` is what it would have had to keep, where there is one."""

    field: str
    message: str
    limit: int | float | str | None = None


class ProblemBody(BaseModel):
    """The body of every error."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldError]
    request_id: str


class Problem(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> ProblemBody:
        """What the answer says."""
        return ProblemBody(
            type=f"urn:ul:problem:{self.code}",
            title=_TITLES.get(self.status, "Error"),
            status=self.status,
            code=self.code,
            detail=self.detail,
            errors=list(self.errors),
            request_id=request_id,
        )

    def response(self, request_id: str) -> Response:
        """The answer itself."""
        text = self.body(request_id).model_dump_json()
        return Response(text, self.status, self.headers, MEDIA_TYPE)


def invalid(field: str, message: str, limit: float | str | None = None) -> Problem:
    """A 422 about one field."""
    return Problem(
        422,
        "invalid_request",
        f"{field}: {message}",
        [FieldError(field=field, message=message, limit=limit)],
    )


def unavailable(code: str, detail: str, seconds: float = 1.0) -> Problem:
    """A 503 that asks to come back, in a second unless another time is known."""
    return Problem(503, code, detail, headers=retry_headers(seconds))


def patience(status: Status) -> float:
    """Seconds after which an engine that takes nothing now may; infinity: it failed for good."""
    return math.inf if status.state == "failed" else 1.0


def retry_headers(seconds: float) -> dict[str, str]:
    """When to come back, in the three ways that clients read; infinity: not with this request."""
    if math.isinf(seconds):
        return {"x-should-retry": "false"}
    return {
        "Retry-After": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
        "x-should-retry": "true",
    }


def from_validation(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """pydantic's errors, without its inputs."""
    found = [_field_error(error) for error in errors[:_MAX_ERRORS]]
    detail = "; ".join(f"{error.field}: {error.message}" for error in found[:5])
    return Problem(422, "invalid_request", detail, found)


def validation_problem(error: ValidationError) -> Problem:
    """A failed `model_validate` as a problem."""
    return from_validation(error.errors(include_url=False, include_input=False))


def from_engine(error: EngineError) -> Problem:
    """What the engine said of a request."""
    if error.code in _PASSING:
        return unavailable(error.code, error.detail)
    return Problem(_ENGINE.get(error.code, 500), error.code, error.detail)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    kind, context = str(error["type"]), error.get("ctx", {})
    limits = [context[key] for key in _LIMITS if key in context]
    limit = limits[0] if limits and isinstance(limits[0], int | float | str) else None
    message = _MESSAGES.get(kind, str(error["msg"]))
    return FieldError(field=_field(error["loc"]), message=message, limit=limit)


def _field(location: Sequence[int | str]) -> str:
    """`query → seed` as "seed", `steps → base` as "steps.base"; strange names are not repeated."""
    parts = [str(part) for part in location if part not in ("query", "body", "path")]
    parts = [part for part in parts if not part.startswith("constrained-")]
    name = ".".join(parts) or "body"
    return name if _FIELD.fullmatch(name) else "(unknown)"


Dialect = Callable[[Problem, str], Response]
"""A problem and the request's id to an answer: the form of errors below some path."""


def answer(problem: Problem, scope: Scope) -> Response:
    """The answer to whoever asked, in the form that `install` was told of for the path."""
    dialects: Mapping[str, Dialect] = scope["app"].state.dialects
    path = scope["path"]
    say = next((say for prefix, say in dialects.items() if path.startswith(prefix)), None)
    identity = str(scope.get("ul.request_id", ""))
    return say(problem, identity) if say else problem.response(identity)


def request_id(request: Request) -> str:
    """The id that the outermost middleware gave."""
    return str(request.scope.get("ul.request_id", ""))


async def _on_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return answer(error, request.scope)


async def _on_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer(from_validation(error.errors()), request.scope)


async def _on_http(request: Request, error: Exception) -> Response:
    """The framework's own errors: unknown routes, wrong methods, broken forms."""
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    title = _TITLES.get(status, "Error")
    headers = _allowed(request) if status == 405 else error.headers
    problem = Problem(status, _CODES.get(status, "http_error"), title, headers=headers)
    return answer(problem, request.scope)


def _allowed(request: Request) -> dict[str, str]:
    """Every method of a path: the framework names those of its first route only."""
    methods: set[str] = set()
    for room in request.app.routes:
        for route in getattr(getattr(room, "original_router", None), "routes", [room]):
            if route.matches(request.scope)[0] is not Match.NONE:
                methods |= getattr(route, "methods", None) or set()
    return {"Allow": ", ".join(sorted(methods))}


async def _on_engine(request: Request, error: Exception) -> Response:
    if not isinstance(error, EngineError):
        raise error
    return answer(from_engine(error), request.scope)


def install(app: FastAPI, dialects: Mapping[str, Dialect]) -> None:
    """Every error of `app` becomes a problem, in a form of its own below some paths."""
    app.state.dialects = dialects
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(EngineError, _on_engine)
