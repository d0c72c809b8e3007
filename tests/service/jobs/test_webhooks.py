"""Deliveries over real sockets, from a real store to a real receiver."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.service.jobs.conftest import Desk, Saying
from unified_latents.service.jobs.job import Job
from unified_latents.service.jobs.webhooks import signed
from unified_latents.service.settings import Settings, parse_secrets

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
TERMS = {"webhook_secrets": f"{OTHER};{SECRET}", "webhook_hosts": "127.0.0.1"}


class Receiver:
    """Answers with each status in turn, and with the last one ever after."""

    def __init__(self) -> None:
        self.statuses = [204]
        self.location = ""
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                many = len(receiver.statuses) > 1
                self.send_response(receiver.statuses.pop(0) if many else receiver.statuses[0])
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


async def told(desk: Desk, job: Job) -> Job:
    """The job when its receiver was told, or will not be."""
    return await desk.until(job.id, lambda job: job.webhook is not None and _over(job))


def _over(job: Job) -> bool:
    return job.webhook is not None and job.webhook.state != "pending"


def count(desk: Desk, outcome: str) -> float:
    """Deliveries that ended so."""
    value = desk.metrics.registry.get_sample_value(
        "ul_webhook_deliveries_total", {"outcome": outcome}
    )
    return value or 0.0


def test_the_end_of_a_job_is_told_and_signed(
    desk: Callable[..., Desk], run: Callable[..., None], receiver: Receiver
) -> None:
    here = desk(**TERMS)

    async def body() -> None:
        async with here.open():
            job = await told(here, await here.submit("a", webhook=receiver.url))
            assert job.webhook is not None
            assert (job.webhook.state, job.webhook.attempts, job.webhook.status) == (
                "delivered",
                1,
                204,
            )
            await here.end((await here.submit("b")).id)

    run(body)
    [(headers, sent)] = receiver.got
    for secret in (SECRET, OTHER):
        said = Webhook(secret).verify(sent, headers)
        assert said["type"] == "job.succeeded"
        assert said["data"]["result"].endswith("/result")
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(sent.replace(b"succeeded", b"cancelled"), headers)
    assert count(here, "delivered") == 1


def test_failures_are_told_too_and_tried_again(
    desk: Callable[..., Desk], run: Callable[..., None], receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 200]
    receiver.location = receiver.url
    here = desk(**TERMS, webhook_backoff=0.01)
    Saying(here.engine, "nonfinite")

    async def body() -> None:
        async with here.open():
            job = await told(here, await here.submit("a", webhook=receiver.url))
            assert job.webhook is not None
            assert (job.webhook.state, job.webhook.attempts) == ("delivered", 3)

    run(body)
    assert len(receiver.got) == 3  # a redirect is an answer like another: nobody follows it
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    said = json.loads(receiver.got[-1][1])
    assert (said["type"], said["data"]["result"]) == ("job.failed", None)
    assert said["data"]["reason"]["code"] == "nonfinite"
    assert (count(here, "failed"), count(here, "delivered")) == (2, 1)


@pytest.mark.parametrize(
    ("said", "statuses", "attempts", "outcome"),
    [
        ({"webhook_attempts": 2, "webhook_backoff": 0.01}, [500], 2, "abandoned"),
        ({}, [410], 1, "refused"),
        ({"webhook_hosts": ""}, [200], 0, "refused"),
    ],
)
def test_receivers_that_are_given_up(
    desk: Callable[..., Desk],
    run: Callable[..., None],
    receiver: Receiver,
    said: dict[str, Any],
    statuses: list[int],
    attempts: int,
    outcome: str,
) -> None:
    """One that never answers well, one that is gone, and one on an address of this machine."""
    receiver.statuses = statuses
    here = desk(**{**TERMS, **said})

    async def body() -> None:
        async with here.open():
            job = await told(here, await here.submit("a", webhook=receiver.url))
            assert job.webhook is not None
            assert job.webhook.state == "failed"
            assert job.webhook.trouble

    run(body)
    assert len(receiver.got) == attempts
    assert count(here, outcome) == 1


def test_an_end_that_nobody_saw_is_told(
    desk: Callable[..., Desk], run: Callable[..., None], receiver: Receiver
) -> None:
    """The worker that ended the job died before it could tell; another process looks."""
    first, second = desk(), desk(**TERMS, job_slots=0)

    async def body() -> None:
        assert first.jobs.worker is not None
        first.jobs.worker._on_end = _dying
        async with first.open():
            job = await first.submit("a", webhook=receiver.url)
            await first.end(job.id)
            assert not receiver.got
        async with second.open():
            await told(second, job)
            async with asyncio.timeout(10):
                while [batch async for batch in second.jobs.queue.hooks.expected()]:
                    await asyncio.sleep(0.01)

    run(body)
    assert len(receiver.got) == 1


async def _dying(_: str) -> None:
    """What a process does that is gone."""


def test_a_job_asked_for_again_is_told_of_once(
    desk: Callable[..., Desk], run: Callable[..., None], receiver: Receiver
) -> None:
    here = desk(**TERMS, job_stalled=0.05)

    async def body() -> None:
        async with here.open():
            job = await here.submit("a", webhook=receiver.url)
            await told(here, job)
            again = await here.submit("a", webhook=receiver.url)
            assert again.webhook is not None
            assert again.webhook.state == "delivered"
            assert not [batch async for batch in here.jobs.queue.hooks.expected()]

    run(body)
    assert len(receiver.got) == 1


@pytest.mark.parametrize(("status", "state"), [(204, "delivered"), (410, "failed")])
def test_an_end_that_two_saw_is_told_once(
    desk: Callable[..., Desk],
    run: Callable[..., None],
    receiver: Receiver,
    status: int,
    state: str,
) -> None:
    """The second one queues the delivery when the first one's is over already."""
    receiver.statuses = [status]
    here = desk(**TERMS)

    async def body() -> None:
        async with here.open():
            job = await told(here, await here.submit("a", webhook=receiver.url))
            await here.jobs._webhooks.ended(job.id)
            other = await told(here, await here.submit("b", webhook=receiver.url))
            assert other.webhook is not None
            assert other.webhook.state == state

    run(body)
    assert len(receiver.got) == 2


def test_the_standards_own_example() -> None:
    """Signed by the reference implementation with the same secret, id, time and body."""
    body = b'{"test": 2432232314}'
    headers = signed(parse_secrets(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text", ["secret", "whsec_", "whsec_????", "whsec_c2hvcnQ=", "MfKQ9r8GKYq"]
)
def test_secrets_that_are_none(text: str) -> None:
    for read in (parse_secrets, lambda text: Settings(webhook_secrets=text)):
        with pytest.raises(ValueError, match="whsec_"):
            read(text)
