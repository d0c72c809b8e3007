"""Connections to Redis: one kind for a client that must be answered, one for a worker that waits.

BullMQ is handed these, never a URL: the client it would make of one gives up in an outage and loses
the end of a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

PATIENCE = 3.0
"""Seconds after which a client is told that the store is down."""
_CONNECT = 1.0
_AGAIN = 1.0
"""Seconds after which a task that has not ended is cancelled once more."""
_OUTAGE = 600
"""Tries, a second apart, of a worker to write the end of a job."""
_TRANSIENT = [BusyLoadingError, RedisConnectionError, RedisTimeoutError]


class StoreDownError(Exception):
    """Redis does not answer."""


def impatient(url: str) -> Redis:
    """For the API: answers or fails at once."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=PATIENCE,
        socket_connect_timeout=_CONNECT,
        **_keepalive(url),
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
    )


def patient(url: str) -> Redis:
    """For a worker: blocking reads have no time limit, and an outage is waited out."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=None,
        socket_connect_timeout=_CONNECT,
        **_keepalive(url),
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=1, base=0.1), _OUTAGE),
        retry_on_error=list(_TRANSIENT),
    )


def _keepalive(url: str) -> dict[str, Any]:
    """A peer that vanished is noticed; one on this machine cannot vanish so."""
    return {} if url.startswith("unix:") else {"socket_keepalive": True}


@asynccontextmanager
async def answering(within: float = PATIENCE) -> AsyncIterator[None]:
    """A failure of Redis in here is a `StoreDownError`, after `within` seconds at the latest."""
    try:
        async with asyncio.timeout(within):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreDownError(f"the job store does not answer ({type(error).__name__})") from error


async def ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks that use an impatient client until they have ended.

    Once is not enough: in Python 3.11 `asyncio.wait_for`, in which redis-py sends, returns what has
    just succeeded and forgets that it was cancelled.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)
