"""`AsyncClient`: every call, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self

import httpx
from httpx_sse import aconnect_sse

from unified_latents.service.client import batches, calls
from unified_latents.service.client.blocking import TIMEOUT, answer_of, identity_of, put_off
from unified_latents.service.client.calls import Answer, Ask, Dialogue, Operation, Pause, T
from unified_latents.service.client.results import Batch, Event, Job, Latent, Picture, Row
from unified_latents.service.client.retry import Retries
from unified_latents.service.client.streams import Followed, lasting, told


class AsyncClient:
    """One service, from one event loop; close it, or use it in an `async with`."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        retries: Retries = Retries(),  # noqa: B008  frozen
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=TIMEOUT, transport=transport
        )
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """What is served: labels, sizes, defaults, latent spaces."""
        return await self._hold(calls.models(self._retries))

    async def generate(self, label: str | int | None, **fields: Any) -> list[Picture]:
        """Pictures of a label; `fields` are those of POST /generate, such as n, seed, guidance."""
        return await self._hold(calls.generate(self._retries, label, **fields))

    async def encode(self, image: bytes, **query: Any) -> Latent:
        """A picture's file to its latent; `query` as in POST /encode, such as bitrate=True."""
        return await self._hold(calls.encode(self._retries, image, **query))

    async def decode(self, latent: Latent | bytes, **query: Any) -> list[Picture]:
        """Latents to pictures; `query` as in POST /decode, such as seed and steps."""
        return await self._hold(calls.decode(self._retries, latent, **query))

    async def submit(
        self, kind: Operation, request: Mapping[str, Any], *, key: str | None = None, **options: Any
    ) -> Job:
        """Queue a call; `options` are priority, deadline and accept. Files may be bytes."""
        return await self._hold(calls.submit(self._retries, kind, request, key, **options))

    async def job(self, job: Job | str) -> Job:
        """How a job stands."""
        return await self._hold(calls.job(self._retries, identity_of(job)))

    async def cancel(self, job: Job | str) -> Job:
        """Stop a job."""
        return await self._hold(calls.cancel(self._retries, identity_of(job)))

    async def wait(
        self,
        job: Job | str,
        timeout: float | None = None,
        on_progress: Callable[[Job], object] | None = None,
    ) -> Job:
        """The job when it has succeeded; JobError or TimeoutError otherwise."""
        return await self._hold(calls.wait(self._retries, identity_of(job), timeout, on_progress))

    async def result(self, job: Job | str) -> list[Picture] | Latent | bytes:
        """The answer of a job that has succeeded."""
        return await self._hold(calls.result(self._retries, identity_of(job)))

    async def submit_batch(
        self, rows: Iterable[Mapping[str, Any]] | bytes, *, key: str | None = None
    ) -> Batch:
        """Queue many calls: JSON lines, or mappings with custom_id, kind, request and accept."""
        return await self._hold(batches.submit(self._retries, rows, key))

    async def batch(self, batch: Batch | str) -> Batch:
        """How a batch stands."""
        return await self._hold(batches.look(self._retries, identity_of(batch)))

    async def cancel_batch(self, batch: Batch | str) -> Batch:
        """Stop a batch and the rows of it that have not ended."""
        return await self._hold(batches.cancel(self._retries, identity_of(batch)))

    async def wait_batch(
        self,
        batch: Batch | str,
        timeout: float | None = None,
        on_progress: Callable[[Batch], object] | None = None,
    ) -> Batch:
        """The batch when all its rows have ended; JobError or TimeoutError otherwise."""
        identity = identity_of(batch)
        return await self._hold(batches.wait(self._retries, identity, timeout, on_progress))

    async def output(self, batch: Batch | str) -> list[Row]:
        """What became of each row, in their order; `result` of a row's job is its answer."""
        return await self._hold(batches.output(self._retries, identity_of(batch)))

    async def events(self, job: Job | str) -> AsyncIterator[Event]:
        """A job's events to its end, over as many connections as it takes."""
        followed = Followed(identity_of(job), self._retries)
        while not followed.ended:
            try:
                async with aconnect_sse(
                    self._http, "GET", followed.path, headers=followed.headers
                ) as source:
                    if source.response.status_code == 200:
                        async for event in source.aiter_sse():
                            if told(event):
                                yield followed.seen(lasting(event))
                        pause = followed.broken("the stream ended")
                    else:
                        await source.response.aread()
                        pause = put_off(followed, answer_of(source.response))
            except httpx.TransportError as error:
                pause = followed.broken(str(error) or type(error).__name__)
            if not followed.ended:
                await asyncio.sleep(pause)

    async def _hold(self, dialogue: Dialogue[T]) -> T:
        reply: Answer | None = None
        while True:
            try:
                step = next(dialogue) if reply is None else dialogue.send(reply)
            except StopIteration as end:
                value: T = end.value
                return value
            reply = await self._do(step)

    async def _do(self, step: Ask | Pause) -> Answer:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return Answer(None)
        try:
            response = await self._http.request(
                step.method,
                step.path,
                content=step.content or None,
                headers=dict(step.headers),
                params=dict(step.query) or None,
            )
        except httpx.TransportError as error:
            return Answer(None, fault=str(error) or type(error).__name__)
        return answer_of(response)
