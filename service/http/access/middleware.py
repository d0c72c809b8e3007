"""What every request passes through: an id, a measure, a body limit, and a last net.

Plain ASGI, outside of the framework: a body is counted before anything parses it.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unified_latents.service.http.problems import FieldError, Problem, answer
from unified_latents.service.metrics import Metrics

_INCOMING_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


class RequestContext:
    """Gives each request an id, answers what nobody caught with a bare 500, and measures."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        incoming = _header(scope, b"x-request-id") or b""
        identity = incoming if _INCOMING_ID.fullmatch(incoming) else secrets.token_hex(16).encode()
        scope["ul.request_id"] = identity.decode()
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", identity)]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, tagged)
        except ClientDisconnect:
            log.info("request %s was left by its client", identity.decode())
        except Exception:
            log.exception("request %s failed", identity.decode())
            if status == 0:
                problem = Problem(500, "internal_error", "the service failed; the log says how")
                await answer(problem, scope)(scope, receive, tagged)
        finally:
            self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """By route template, never by path: a client must not be able to add label values."""
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.http_requests.labels(route, str(status)).inc()
        self._metrics.request_duration.labels(route, _outcome(status)).observe(seconds)


def _outcome(status: int) -> str:
    """What came of a request; refused: another time it may be answered."""
    if status in (429, 503):
        return "refused"
    if 200 <= status < 400:
        return "ok"
    if status < 500:
        return "client_error" if status else "disconnected"
    return "error"


class BodyLimit:
    """Refuses a body over `limit` bytes: by Content-Length at once, else while it is read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if declared is not None and _header(scope, b"transfer-encoding") is not None:
            await answer(_two_lengths(), scope)(scope, receive, send)
            return
        if declared is not None and declared.isdigit() and int(declared[:20]) > self._limit:
            await answer(self._problem(), scope)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._problem()
            return message

        await self._app(scope, counted, send)

    def _problem(self) -> Problem:
        message = "the request's body is too large"
        error = FieldError(field="body", message=message, limit=self._limit)
        return Problem(413, "body_too_large", message, [error], {"Connection": "close"})


def _two_lengths() -> Problem:
    """A proxy may have believed the other one (RFC 9112, 6.1): nothing may follow."""
    message = "must not come with Transfer-Encoding"
    error = FieldError(field="Content-Length", message=message)
    return Problem(400, "ambiguous_length", message, [error], {"Connection": "close"})
