"""`Client`: every call, waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import httpx
from httpx_sse import connect_sse

from unified_latents.service.client import batches, calls
from unified_latents.service.client.calls import Answer, Ask, Dialogue, Operation, Pause, T
from unified_latents.service.client.results import Batch, Event, Job, Latent, Picture, Row
from unified_latents.service.client.retry import Retries
from unified_latents.service.client.streams import Followed, lasting, told

TIMEOUT = httpx.Timeout(10.0, read=600.0)


class Client:
    """One service. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        retries: Retries = Retries(),  # noqa: B008  frozen
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=TIMEOUT, transport=transport
        )
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """What is served: labels, sizes, defaults, latent spaces."""
        return self._hold(calls.models(self._retries))

    def generate(self, label: str | int | None, **fields: Any) -> list[Picture]:
        """Pictures of a label; `fields` are those of POST /generate, such as n, seed, guidance."""
        return self._hold(calls.generate(self._retries, label, **fields))

    def encode(self, image: bytes, **query: Any) -> Latent:
        """A picture's file to its latent; `query` as in POST /encode, such as bitrate=True."""
        return self._hold(calls.encode(self._retries, image, **query))

    def decode(self, latent: Latent | bytes, **query: Any) -> list[Picture]:
        """Latents to pictures; `query` as in POST /decode, such as seed and steps."""
        return self._hold(calls.decode(self._retries, latent, **query))

    def submit(
        self, kind: Operation, request: Mapping[str, Any], *, key: str | None = None, **options: Any
    ) -> Job:
        """Queue a call; `options` are priority, deadline and accept. Files may be bytes."""
        return self._hold(calls.submit(self._retries, kind, request, key, **options))

    def job(self, job: Job | str) -> Job:
        """How a job stands."""
        return self._hold(calls.job(self._retries, identity_of(job)))

    def cancel(self, job: Job | str) -> Job:
        """Stop a job."""
        return self._hold(calls.cancel(self._retries, identity_of(job)))

    def wait(
        self,
        job: Job | str,
        timeout: float | None = None,
        on_progress: Callable[[Job], object] | None = None,
    ) -> Job:
        """The job when it has succeeded; JobError or TimeoutError otherwise."""
        return self._hold(calls.wait(self._retries, identity_of(job), timeout, on_progress))

    def result(self, job: Job | str) -> list[Picture] | Latent | bytes:
        """The answer of a job that has succeeded."""
        return self._hold(calls.result(self._retries, identity_of(job)))

    def submit_batch(
        self, rows: Iterable[Mapping[str, Any]] | bytes, *, key: str | None = None
    ) -> Batch:
        """Queue many calls: JSON lines, or mappings with custom_id, kind, request and accept."""
        return self._hold(batches.submit(self._retries, rows, key))

    def batch(self, batch: Batch | str) -> Batch:
        """How a batch stands."""
        return self._hold(batches.look(self._retries, identity_of(batch)))

    def cancel_batch(self, batch: Batch | str) -> Batch:
        """Stop a batch and the rows of it that have not ended."""
        return self._hold(batches.cancel(self._retries, identity_of(batch)))

    def wait_batch(
        self,
        batch: Batch | str,
        timeout: float | None = None,
        on_progress: Callable[[Batch], object] | None = None,
    ) -> Batch:
        """The batch when all its rows have ended; JobError or TimeoutError otherwise."""
        identity = identity_of(batch)
        return self._hold(batches.wait(self._retries, identity, timeout, on_progress))

    def output(self, batch: Batch | str) -> list[Row]:
        """What became of each row, in their order; `result` of a row's job is its answer."""
        return self._hold(batches.output(self._retries, identity_of(batch)))

    def events(self, job: Job | str) -> Iterator[Event]:
        """A job's events to its end, over as many connections as it takes."""
        followed = Followed(identity_of(job), self._retries)
        while not followed.ended:
            try:
                with connect_sse(
                    self._http, "GET", followed.path, headers=followed.headers
                ) as source:
                    if source.response.status_code == 200:
                        for event in filter(told, source.iter_sse()):
                            yield followed.seen(lasting(event))
                        pause = followed.broken("the stream ended")
                    else:
                        source.response.read()
                        pause = put_off(followed, answer_of(source.response))
            except httpx.TransportError as error:
                pause = followed.broken(str(error) or type(error).__name__)
            if not followed.ended:
                time.sleep(pause)

    def _hold(self, dialogue: Dialogue[T]) -> T:
        reply: Answer | None = None
        while True:
            try:
                step = next(dialogue) if reply is None else dialogue.send(reply)
            except StopIteration as end:
                value: T = end.value
                return value
            reply = self._do(step)

    def _do(self, step: Ask | Pause) -> Answer:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return Answer(None)
        try:
            response = self._http.request(
                step.method,
                step.path,
                content=step.content or None,
                headers=dict(step.headers),
                params=dict(step.query) or None,
            )
        except httpx.TransportError as error:
            return Answer(None, fault=str(error) or type(error).__name__)
        return answer_of(response)


def answer_of(response: httpx.Response) -> Answer:
    """What httpx got, as a dialogue takes it."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, response.content)


def put_off(followed: Followed, answer: Answer) -> float:
    """Seconds until a stream that was not opened may be; an error where it will never be."""
    followed.ended = answer.status == 204
    if followed.ended:
        return 0.0
    wait = followed.refused(answer.status, answer.headers)
    if wait is None:
        raise calls.problem(answer)
    return wait


def identity_of(known: Job | Batch | str) -> str:
    """The id of a job or a batch, or the id itself."""
    return known if isinstance(known, str) else known.id
