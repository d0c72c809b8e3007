"""What happens to a job, as a Redis stream that a client may follow and come back to.

A worker writes only while it holds the job's lease, and progress only grows: both are checked where
the event is written. The end of a job is read from the job itself, so no death can swallow it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple

import msgspec
from redis.asyncio import Redis

from unified_latents.service.jobs.connection import answering
from unified_latents.service.jobs.job import Progress

_KEEP = 10_000
"""Events of a job that are kept, about."""
_WRITE = """
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[4] ~= '' then
  local held = redis.call('HGET', KEYS[2], 'ul:done')
  local mark = 1 + redis.call('HEXISTS', KEYS[2], 'ul:cancel')
  if held and tonumber(held) >= tonumber(ARGV[4]) then return mark end
  redis.call('HSET', KEYS[2], 'progress', ARGV[3], 'ul:done', ARGV[4])
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'kind', ARGV[2], 'data', ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[5])
return 1 + redis.call('HEXISTS', KEYS[2], 'ul:cancel')
"""

EventKind = Literal["running", "progress", "queued", "end"]
Held = Literal["lost", "held", "cancelled"]
"""What a worker that writes learns of its lease."""
_HELD: tuple[Held, ...] = ("lost", "held", "cancelled")


class Event(NamedTuple):
    """One event; `id` is what a client comes back with."""

    id: str
    kind: str
    data: str


class Events:
    """The streams of all jobs."""

    def __init__(self, client: Redis, prefix: str, lifetime: int) -> None:
        self._client = client
        self._prefix = prefix
        self._lifetime = lifetime
        self._script = client.register_script(_WRITE)

    async def write(self, job: str, kind: EventKind, data: str = "{}", token: str = "") -> Held:
        """Add an event; with a `token`, only while that is the lease's."""
        return _HELD[await self._write(job, kind, data, token, "")]

    async def progress(self, job: str, progress: Progress, token: str) -> Held:
        """Record progress, unless the job has been further already."""
        data = msgspec.json.encode(progress).decode()
        return _HELD[await self._write(job, "progress", data, token, str(progress.done))]

    async def held(self, job: str, token: str) -> Held:
        """What a write would say of the lease."""
        hash_key = f"{self._prefix}:{job}"
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.get(f"{hash_key}:lock")
            pipe.hexists(hash_key, "ul:cancel")
            holder, cancelled = await pipe.execute()
        return _HELD[1 + cancelled] if holder == token else "lost"

    async def read(self, job: str, after: str, wait: float) -> list[Event]:
        """The events after one, waiting up to `wait` seconds where there is none yet."""
        async with answering(wait + 3):
            found: Any = await self._client.xread(
                {self._key(job): after}, count=200, block=max(1, int(wait * 1000))
            )
        entries = (entry for stream in (found or []) for entry in stream[1])
        return [Event(number, fields["kind"], fields["data"]) for number, fields in entries]

    async def _write(self, job: str, kind: str, data: str, token: str, done: str) -> int:
        hash_key = f"{self._prefix}:{job}"
        answer: int = await self._script(
            keys=[f"{hash_key}:lock", hash_key, self._key(job)],
            args=[token, kind, data, done, self._lifetime, _KEEP],
        )
        return answer

    def _key(self, job: str) -> str:
        return f"{self._prefix}:{job}:story"


async def follow(events: Events, job: str, after: str, wait: float) -> AsyncGenerator[Event, None]:
    """Every event after one, for ever. An empty `kind` says that there are no more for now: `wait`
    seconds brought none, or the last one told of an end.
    """
    pause = wait
    while True:
        found = await events.read(job, after, pause)
        for event in found:
            after = event.id
            yield event
        pause = 0.0 if found and found[-1].kind == "end" else wait
        if not found:
            yield Event(after, "", "")
