"""Problems in OpenAI's shape: the status and the type decide which exception an SDK raises."""

from __future__ import annotations

from starlette.responses import Response

from unified_latents.service.http.openai.schemas import ErrorBody, ErrorDetail
from unified_latents.service.http.problems import Problem

PREFIX = "/v1/"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {"unknown_model": "model_not_found", "unauthorized": "invalid_api_key"}


def body(problem: Problem) -> ErrorBody:
    """The error of a problem; `param` is its first field."""
    status = problem.status
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    limits = [str(error.limit) for error in problem.errors[:1] if error.limit is not None]
    message = problem.detail + (f" (limit: {limits[0]})" if limits else "")
    param = problem.errors[0].field if problem.errors else None
    code = _CODES.get(problem.code, problem.code)
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def response(problem: Problem, request_id: str) -> Response:
    """The answer itself; the id is in its headers. A field at fault is a 400, as with OpenAI."""
    status = 400 if problem.status == 422 else problem.status
    text = body(problem).model_dump_json()
    return Response(text, status, problem.headers, "application/json")
