"""What Redis keeps of webhooks: which jobs still have to be told of, and what became of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from redis.asyncio import Redis

from unified_latents.service.jobs.job import WebhookState

FIELD = "ul:hook"
_BATCH = 200
_NOTE = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
"""


class Hooks:
    """A set of jobs, and a field of each one's record."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._set = f"{prefix}:hooks"
        self._note = client.register_script(_NOTE)

    async def expect(self, identity: str) -> None:
        """When this job ends, somebody is to be told."""
        await self._client.sadd(self._set, identity)

    async def drop(self, identity: str) -> None:
        """The delivery is queued."""
        await self._client.srem(self._set, identity)

    async def expected(self) -> AsyncGenerator[list[str], None]:
        """Jobs of whose end nobody is told yet, some at a time."""
        batch: list[str] = []
        async for identity in self._client.sscan_iter(self._set, count=_BATCH):
            batch.append(identity)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def note(self, identity: str, state: WebhookState) -> None:
        """What became of a try, for whoever asks about the job."""
        record = msgspec.json.encode(state).decode()
        await self._note(keys=[f"{self._prefix}:{identity}"], args=[FIELD, record])
