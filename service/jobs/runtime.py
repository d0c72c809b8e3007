"""What a process that has to do with jobs puts together: store, queue, objects, and a worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import NamedTuple

import msgspec

from unified_latents.service.engine.messages import Encode, Generate
from unified_latents.service.engine.seam import Engine
from unified_latents.service.jobs import connection
from unified_latents.service.jobs.attempt import Bench, Render
from unified_latents.service.jobs.batches import Batches
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.events import Events
from unified_latents.service.jobs.job import DEFAULT_PRIORITY, Kind, Spec
from unified_latents.service.jobs.objects import open_store
from unified_latents.service.jobs.queue import NAME, PREFIX, JobQueue, Submitted
from unified_latents.service.jobs.server import Store
from unified_latents.service.jobs.webhooks import Policy, Webhooks
from unified_latents.service.jobs.worker import Terms, Worker
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings, parse_secrets

_PULSE = 1.0
_SWEEP = 600.0
_MARGIN = 3600.0
"""Seconds that an object outlives the answer it belongs to."""
_STORING = 30.0
"""Seconds that a client waits for its input to be stored."""
_INLINE = 1024
"""Bytes of a call that travel inside the queue."""

log = logging.getLogger(__name__)


class Options(NamedTuple):
    """How a job is to be carried out."""

    priority: int = DEFAULT_PRIORITY
    deadline: float | None = None
    """Seconds from now."""
    webhook: str | None = None
    """A URL that is told of the end."""
    listed: bool = True
    """Whether it is among its owner's jobs: a row of a batch is not."""


class Jobs:
    """Jobs as the rest of the service knows them. `start` and `stop` are called once each."""

    def __init__(
        self, settings: Settings, engine: Engine, metrics: Metrics, render: Render
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._store = None if settings.redis_url else Store(settings.home / "store")
        url = settings.redis_url or (self._store.url if self._store else "")
        keep, answers = settings.job_records, settings.job_answers
        self._client = connection.impatient(url)
        self._lasting = connection.patient(url)
        prefix = f"{PREFIX}:{NAME}"
        self.queue = JobQueue(self._client, keep=keep, answers=answers)
        self.events = Events(self._client, prefix, int(answers))
        self.objects = open_store(settings.objects, settings.home / "objects")
        events = Events(self._lasting, prefix, int(answers))
        bench = Bench(engine, self.objects, events, render, metrics, settings.job_snapshots)
        terms = Terms(
            settings.job_slots, settings.job_lease, settings.job_renewal, settings.job_stalled
        )
        policy = Policy(
            parse_secrets(settings.webhook_secrets),
            settings.webhook_attempts,
            settings.webhook_backoff,
            settings.job_stalled,
            settings.webhook_hosts,
        )
        self.batches = Batches(url, self._client, settings)
        self._webhooks = Webhooks(url, self.queue, policy, metrics)
        told = self._webhooks.ended
        self.worker = Worker(url, bench, terms, metrics, told) if settings.job_slots else None
        self.up = False
        """Whether the store answered when it was last asked."""
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """The store first; a store that does not come up leaves jobs down, and nothing else."""
        if self._store is not None:
            await self._store.start()
        await self._beat()
        self._chores = [asyncio.create_task(self._pulse()), asyncio.create_task(self._sweep())]
        await self._webhooks.start()
        if self.worker is not None:
            await self.worker.start()

    @property
    def busy(self) -> int:
        """Jobs in work here."""
        return self.worker.busy if self.worker is not None else 0

    async def retire(self) -> None:
        """Take no more work; what is begun goes on until `stop`."""
        if self.worker is not None:
            await self.worker.retire()

    async def stop(self, grace: float = 0.0) -> None:
        """Hand back what the worker does not end within `grace`; the store goes last."""
        if self.worker is not None:
            await self.worker.stop(grace)
            self.worker = None
        await self._webhooks.stop()
        await self.batches.stop()
        await connection.ended(self._chores)
        for client in (self._client, self._lasting):
            await client.aclose()
        if self._store is not None:
            await self._store.stop()
            self._store = None

    async def submit(
        self, identity: str, call: Call, digest: str, owner: str, options: Options
    ) -> Submitted:
        """Queue a call; one with an array in it goes to the object store first.

        Who waits for an answer goes first in the engine, whatever a job's place in the queue.
        """
        message = msgspec.structs.replace(call.message, priority="low")
        call = msgspec.structs.replace(call, message=message)
        packed = msgspec.msgpack.encode(call)
        small = len(packed) <= _INLINE
        spec = Spec(
            kind=kind(call),
            digest=digest,
            model=call.message.model,
            call=call if small else None,
            input=None if small else await self.keep(packed),
            owner=owner,
            deadline=options.deadline,
            webhook=options.webhook,
        )
        return await self.queue.submit(identity, spec, options.priority, listed=options.listed)

    async def keep(self, data: bytes) -> str:
        """Keep an input under its digest, which is returned; `StoreDownError`."""
        async with connection.answering(_STORING):
            return await self.objects.put("inputs", data)

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(_PULSE)
            await self._beat()

    async def _beat(self) -> None:
        was = self.up
        try:
            for state, count in (await self.queue.counts()).items():
                self._metrics.jobs.labels(state).set(count)
            self.up = True
        except StoreDownError as error:
            self.up = False
            if was:
                log.warning("%s", error)
        self._metrics.job_store_up.set(self.up)

    async def _sweep(self) -> None:
        """Objects end with the records that name them, or a little later."""
        kept = self._settings.job_answers + _MARGIN
        while True:
            await asyncio.sleep(_SWEEP)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                count = await self.objects.sweep(kept)
                log.info("swept %d objects in %.1f s", count, time.monotonic() - began)


def kind(call: Call) -> Kind:
    """Which of the three calls it is."""
    if isinstance(call.message, Generate):
        return "generate"
    return "encode" if isinstance(call.message, Encode) else "decode"
