"""Turning a call into a job: `Prefer: respond-async`, `Idempotency-Key`, 202 and `Location`."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple

from fastapi import Request, Response

from unified_latents.service.engine.forecast import row_steps
from unified_latents.service.http import core
from unified_latents.service.http.access.guard import forbidden
from unified_latents.service.http.deferral.results import polling
from unified_latents.service.http.deferral.views import view
from unified_latents.service.http.negotiation import JSON
from unified_latents.service.http.problems import (
    FieldError,
    Problem,
    invalid,
    retry_headers,
    unavailable,
)
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.egress import ForbiddenTargetError, check_url
from unified_latents.service.jobs.job import FINISHED
from unified_latents.service.jobs.queue import Submitted
from unified_latents.service.jobs.runtime import Jobs, Options, kind
from unified_latents.service.keys import Caller
from unified_latents.service.settings import Settings

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_PLAIN = Options()
_FULL = 10.0
"""Seconds after which a client that found the queue full should try again."""


def wanted(request: Request, *, slow: bool = False) -> bool:
    """Whether the client would rather have a job than wait (RFC 7240).

    Of a `slow` call that is assumed where jobs run, unless `Prefer: wait` says otherwise.
    """
    stated = ",".join(request.headers.getlist("prefer"))
    tokens = {re.split("[;=]", part)[0].strip().lower() for part in stated.split(",")}
    jobs = core.of(request).jobs
    return "respond-async" in tokens or (slow and "wait" not in tokens and bool(jobs and jobs.up))


class Order(NamedTuple):
    """A call that shall be a job."""

    call: Call
    digest: str
    """Of all that the request is made of, as it came."""
    options: Options = Options()
    key: str | None = None
    """Of idempotency: the same key is the same job."""
    prefix: str = "job_"


def jobs_of(request: Request) -> Jobs:
    """The jobs behind a request; a 404 where the service has none."""
    return jobs_in(core.of(request))


def jobs_in(service: core.Service) -> Jobs:
    """The jobs of a service; a 404 where it has none."""
    if service.jobs is None:
        raise Problem(404, "jobs_disabled", "this service runs without jobs")
    return service.jobs


def owner_of(request: Request) -> str:
    """Whose jobs these are: a key's, or anyone's where there are no keys."""
    return core.caller(request).name


async def defer(request: Request, call: Call, options: Options = _PLAIN) -> Response:
    """Queue a call and answer 202, or with the job that its idempotency key stands for."""
    jobs, key = jobs_of(request), request.headers.get("idempotency-key")
    order = Order(call, await _digest(request), options, key)
    made = await submit(core.of(request), core.caller(request), order)
    return _accepted(request, made, jobs.queue.answers)


async def submit(service: core.Service, who: Caller, order: Order) -> Submitted:
    """Queue a call, or find the job that its idempotency key stands for; a Problem otherwise."""
    jobs, call, owner = jobs_in(service), order.call, who.name
    if service.draining:
        raise unavailable("shutting_down", "the service is shutting down")
    check(who, call)
    check_webhook(service.settings, order.options.webhook)
    identity, charged = identity_of(order.key, owner, order.prefix), 0
    try:
        if order.key is None or not await jobs.queue.knows(identity, owner):
            charged = await charge(service, who, jobs, row_steps(call.message))
        made = await jobs.submit(identity, call, order.digest, owner, order.options)
    except StoreDownError as error:
        service.admission.give_back(who, charged)
        raise down(error) from error
    if not made.new:
        service.admission.give_back(who, charged)
    if made.job.spec.digest != order.digest:
        message = "stands for another request"
        field = FieldError(field="Idempotency-Key", message=message)
        raise Problem(409, "idempotency_mismatch", f"Idempotency-Key: {message}", [field])
    return made


def check(caller: Caller, call: Call) -> None:
    """A key that queues a call needs to be for jobs, for the call, and for its priority."""
    urgent = ("high",) if call.message.priority == "high" else ()
    for scope in ("jobs", kind(call), *urgent):
        if not caller.may(scope):
            raise forbidden(scope)


def check_webhook(settings: Settings, url: str | None) -> None:
    """A 422 about a URL that is not told of anything."""
    if url is None:
        return
    if not settings.webhook_secrets:
        raise invalid("webhook", "this service has nothing to sign webhooks with")
    try:
        check_url(url, settings.webhook_hosts)
    except ForbiddenTargetError as error:
        raise invalid("webhook", str(error)) from error


def down(error: StoreDownError) -> Problem:
    """The store does not answer; the rest of the service may."""
    return unavailable("jobs_unavailable", str(error))


async def charge(service: core.Service, who: Caller, jobs: Jobs, cost: int) -> int:
    """Take the row-steps of a new job from its key's budget, where the queue has room for it."""
    waiting, limit = (await jobs.queue.counts())["queued"], service.settings.max_jobs
    if waiting >= limit:
        service.metrics.on_refusal("jobs")
        message = f"{waiting} jobs wait already"
        fault = FieldError(field="queue", message=message, limit=limit)
        raise Problem(503, "jobs_full", message, [fault], retry_headers(_FULL))
    service.admission.charge(who, cost)
    return cost


def _accepted(request: Request, made: Submitted, answers: float) -> Response:
    headers = {"Location": f"/jobs/{made.job.id}", **polling(made.job)}
    if wanted(request):
        headers["Preference-Applied"] = "respond-async"
    status = 200 if made.job.state in FINISHED else 202
    body = view(made.job, answers).model_dump_json()
    return Response(body, status, headers, JSON)


def identity_of(key: str | None, owner: str, prefix: str = "job_") -> str:
    """A job's id: random, or one for each owner's key."""
    if key is None:
        return prefix + secrets.token_hex(16)
    if not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "must be printable and short", 255)
    return prefix + hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()[:32]


async def _digest(request: Request) -> str:
    """Of all that the call is made of, as it came."""
    head = [request.url.path, request.url.query, core.accept(request)]
    head.append(request.headers.get("content-type", ""))
    return hashlib.sha256("\0".join(head).encode() + b"\0" + await request.body()).hexdigest()
