"""What every call passes through: an id, a key, its deadline, a measure, and a last net."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from unified_latents.service.engine.seam import EngineError
from unified_latents.service.http.core import Service
from unified_latents.service.http.deferral.defer import down
from unified_latents.service.http.problems import Problem, from_engine
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.queue import FinishedError, UnknownJobError
from unified_latents.service.keys import Caller
from unified_latents.service.rpc.details import Failure, failure

_INCOMING_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST = 86_400.0
"""Seconds: a deadline beyond them is no deadline of a request."""

Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Who called, under which id, and the seconds that are left for an answer."""

    identity: str
    caller: Caller
    timeout: float | None


@asynccontextmanager
async def asked(
    service: Service, context: Context, method: str, scope: str
) -> AsyncIterator[Asked]:
    """A call of `method` that needs `scope`; what is raised inside becomes its status."""
    identity, authorization = _metadata(context)
    context.set_trailing_metadata((("x-request-id", identity),))
    began, outcome = time.perf_counter(), "OK"
    try:
        caller = service.guard.check(authorization, scope)
        yield Asked(identity, caller, _left(context))
    except asyncio.CancelledError:
        outcome = "CANCELLED"
        service.metrics.cancelled.labels("running").inc()
        raise
    except Exception as error:
        found = _failure(error, identity)
        outcome = found.code.name
        trailing = (("x-request-id", identity), *found.trailing)
        await context.abort(found.code, found.detail, trailing)
    finally:
        service.metrics.on_rpc(method, outcome, time.perf_counter() - began)


def _failure(error: Exception, identity: str) -> Failure:
    problem = _problem(error)
    if problem is None:
        log.error("call %s failed", identity, exc_info=error)
        problem = Problem(500, "internal_error", "the service failed; the log says how")
    return failure(problem, identity)


def _problem(error: Exception) -> Problem | None:
    """What HTTP's routes would say."""
    match error:
        case Problem():
            return error
        case EngineError():
            return from_engine(error)
        case UnknownJobError():
            return Problem(404, "unknown_job", "no such job")
        case FinishedError():
            return Problem(409, "job_finished", f"the job has {error.job.state} already")
        case StoreDownError():
            return down(error)
    return None


def _metadata(context: Context) -> tuple[str, str | None]:
    """The call's id, its client's or a new one, and what it says of its key."""
    found = dict(context.invocation_metadata() or ())
    incoming, authorization = found.get("x-request-id"), found.get("authorization")
    known = isinstance(incoming, str) and _INCOMING_ID.fullmatch(incoming)
    identity = str(incoming) if known else secrets.token_hex(16)
    return identity, authorization if isinstance(authorization, str) else None


def _left(context: Context) -> float | None:
    """Seconds until the client's deadline; None where it has none."""
    left: float | None = context.time_remaining()  # its stub forgets the None
    if left is None or left > _LONGEST:
        return None
    if left <= 0:
        raise Problem(504, "deadline_exceeded", "the deadline passed before the work began")
    return left
