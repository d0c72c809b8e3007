"""Telling a URL that a job has ended, as Standard Webhooks say (standardwebhooks.com).

A job with a webhook is in a set from before it is queued until its delivery is queued, so that no
death loses one; whoever sees a job end looks into that set, and so does everybody now and then.
Deliveries are jobs of a queue of their own and are tried again until they are answered with 2xx.
An end may be seen by two: a delivery that is over is remembered for a while, so that it is queued
once. A receiver may see one twice, with the same `webhook-id`, when a process dies delivering.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import bullmq
import httpcore
import msgspec
from bullmq.custom_errors import UnrecoverableError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from unified_latents.service.jobs import connection
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.egress import ForbiddenTargetError, PublicBackend
from unified_latents.service.jobs.job import Job, WebhookState
from unified_latents.service.jobs.queue import PREFIX, JobQueue
from unified_latents.service.metrics import Metrics

_NAME = "webhooks"
_AT_ONCE = 8
_TIMEOUT = 10.0
"""Seconds for each of connecting, sending and being answered."""
_GONE = 410
"""The receiver wants no more of this (Standard Webhooks)."""
_MOST = 2048
"""Bytes of an answer that are read."""
_REMEMBERED = {"age": 3600, "count": 10_000}
"""Seconds for which the store knows a delivery that is over, and how many of them at most."""

log = logging.getLogger(__name__)

Headers = Mapping[bytes | str, bytes | str]
Outcome = Literal["delivered", "failed", "refused", "abandoned"]


class Policy(NamedTuple):
    """How often, how far apart, and where to."""

    secrets: Sequence[bytes]
    attempts: int
    backoff: float
    """Seconds before the second try; each later one waits twice as long."""
    look: float
    """Seconds from one look for ends that nobody saw to the next."""
    exempt: Collection[str] = ()
    """Hosts that may be called though they are not public."""


def signed(secrets: Sequence[bytes], identity: str, seconds: int, body: bytes) -> Headers:
    """The headers of a delivery; it is signed with every secret, so that they can be changed."""
    content = f"{identity}.{seconds}.".encode() + body
    signatures = (hmac.digest(secret, content, hashlib.sha256) for secret in secrets)
    return {
        "content-type": "application/json",
        "webhook-id": identity,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join("v1," + base64.b64encode(s).decode() for s in signatures),
        "user-agent": "unified-latents",
    }


def payload(job: Job) -> bytes:
    """What a receiver is told: the end, not the answer, which it fetches with its own key."""
    return msgspec.json.encode(
        {
            "type": f"job.{job.state}",
            "timestamp": datetime.fromtimestamp(job.finished or job.created, UTC),
            "data": {
                "id": job.id,
                "kind": job.spec.kind,
                "model": job.spec.model,
                "state": job.state,
                "reason": job.reason,
                "result": f"/jobs/{job.id}/result" if job.outcome else None,
            },
        }
    )


class Webhooks:
    """Deliveries of one process. `start` and `stop` are called once each."""

    def __init__(self, url: str, jobs: JobQueue, policy: Policy, metrics: Metrics) -> None:
        self._url = url
        self._jobs = jobs
        self._policy = policy
        self._metrics = metrics
        self._client: Redis = connection.patient(url)
        self._queue = bullmq.Queue(_NAME, {"connection": self._client, "prefix": PREFIX})
        self._http = httpcore.AsyncConnectionPool(
            max_connections=_AT_ONCE,
            max_keepalive_connections=0,
            network_backend=PublicBackend(policy.exempt),
        )
        self._bull: bullmq.Worker | None = None
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin, if there is something to sign with; returns at once."""
        if not self._policy.secrets:
            return
        self._chores = [asyncio.create_task(self._work()), asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        """What is being delivered is delivered again by somebody else."""
        await connection.ended(self._chores)
        if self._bull is not None:
            with contextlib.suppress(TimeoutError, RedisError, OSError):
                async with asyncio.timeout(_TIMEOUT):
                    await self._bull.close(force=True)
        await self._http.aclose()
        await self._client.aclose()

    async def ended(self, identity: str) -> None:
        """A job has ended: queue its delivery, if it has one."""
        for job in await self._jobs.read([identity]):
            if job.spec.webhook and job.finished is not None:
                await self._enqueue(job, job.finished)

    async def _enqueue(self, job: Job, finished: float) -> None:
        options = {
            "jobId": f"{job.id}-{round(finished * 1000)}",
            "attempts": self._policy.attempts,
            "backoff": {"type": "exponential", "delay": int(self._policy.backoff * 1000)},
            "removeOnComplete": _REMEMBERED,
            "removeOnFail": _REMEMBERED,
        }
        await self._queue.add("delivery", {"job": job.id}, options)
        await self._jobs.hooks.drop(job.id)

    async def _watch(self) -> None:
        """Ends that happened to jobs whose worker did not live to tell."""
        while True:
            try:
                async for job in self._jobs.ended_unseen():
                    await self._enqueue(job, job.finished or job.created)
            except (StoreDownError, RedisError, OSError) as error:
                log.warning("webhooks: %s", error)
            await asyncio.sleep(self._policy.look)

    async def _work(self) -> None:
        options = {
            "prefix": PREFIX,
            "autorun": False,
            "concurrency": _AT_ONCE,
            "connection": connection.patient(self._url),
        }
        self._bull = bullmq.Worker(_NAME, self._deliver, options)
        self._bull.on("error", lambda error, *_: log.warning("webhooks: %s", error))
        await self._bull.run()

    async def _deliver(self, taken: bullmq.Job, token: str) -> None:
        """One try; an exception is a reason to try again, or not to."""
        identity = str(taken.data["job"])
        found = await self._jobs.read([identity])
        if not found or found[0].spec.webhook is None:
            return
        job, url = found[0], found[0].spec.webhook
        attempt = int(taken.attemptsMade) + 1
        body, now = payload(job), int(time.time())
        headers = signed(self._policy.secrets, str(taken.id), now, body)
        status, trouble, outcome = await self._post(url, headers, body)
        if outcome == "failed" and attempt >= self._policy.attempts:
            outcome = "abandoned"
        self._metrics.webhook_deliveries.labels(outcome).inc()
        state: Literal["delivered", "pending", "failed"] = "failed"
        if outcome in ("delivered", "failed"):
            state = "delivered" if outcome == "delivered" else "pending"
        await self._jobs.hooks.note(identity, WebhookState(state, attempt, status, trouble))
        if outcome == "refused":
            raise UnrecoverableError(trouble)
        if outcome != "delivered":
            raise RuntimeError(trouble)

    async def _post(
        self, url: str, headers: Headers, body: bytes
    ) -> tuple[int | None, str, Outcome]:
        """The answer's status, what was wrong with it, and what that means."""
        limits = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT)
        try:
            async with (
                asyncio.timeout(3 * _TIMEOUT),
                self._http.stream(
                    "POST", url, headers=headers, content=body, extensions={"timeout": limits}
                ) as answer,
            ):
                status = answer.status
                await _drain(answer)
        except ForbiddenTargetError as error:
            return None, str(error), "refused"
        except (httpcore.NetworkError, httpcore.TimeoutException, TimeoutError) as error:
            return None, f"no answer ({type(error).__name__})", "failed"
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            return None, f"no HTTP answer ({type(error).__name__})", "failed"
        if 200 <= status < 300:
            return status, "", "delivered"
        return status, f"answered {status}", "refused" if status == _GONE else "failed"


async def _drain(answer: httpcore.Response) -> None:
    """Read a little, so that a receiver that writes an answer is not cut off while it does."""
    read = 0
    async for chunk in answer.aiter_stream():
        read += len(chunk)
        if read > _MOST:
            return
