from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from tests.service.conftest import LiveServer
from unified_latents.service.client import Client, ProblemError, Retries, UnreachableError

QUICK = Retries(attempts=2, first=0.01)


@pytest.fixture(scope="module")
def ul(live: LiveServer) -> Iterator[Client]:
    with Client(live.url) as client:
        yield client


def test_a_picture_goes_through_its_latent_and_back(ul: Client) -> None:
    first, second = ul.generate("square", n=2, seed=5, model="tiny")
    assert (first.seed, first.media_type) == (5, "image/png")
    assert first.receipt["sha256"] == hashlib.sha256(first.data).hexdigest()
    assert first.data != second.data
    latent = ul.encode(first.data, bitrate=True, levels=2, model="tiny")
    assert latent.shape == (1, 4, 4, 4)
    assert latent.bitrate is not None
    assert latent.bitrate.bits == pytest.approx(latent.bitrate.nats / 0.6931, rel=1e-3)
    [again] = ul.decode(latent, seed=1, steps=2, model="tiny")
    with Image.open(io.BytesIO(again.data)) as image:
        assert image.size == (16, 16)


def test_models_are_listed(ul: Client) -> None:
    assert [model["name"] for model in ul.models()] == ["tiny", "plain"]


def test_a_refusal_names_the_field(ul: Client) -> None:
    with pytest.raises(ProblemError) as caught:
        ul.generate("square", n=0)
    assert (caught.value.status, caught.value.errors[0]["field"]) == (422, "n")


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", retries=QUICK) as nobody, pytest.raises(UnreachableError):
        nobody.models()


def test_events_go_on_after_a_broken_connection() -> None:
    asked: list[str | None] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        kinds = {1: ("1-0", "running"), 2: ("2-0", "progress"), 3: ("end", "succeeded")}
        identity, kind = kinds[len(asked)]
        text = f"id: {identity}\nevent: {kind}\ndata: {json.dumps({'done': len(asked)})}\n\n:\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    with Client(retries=QUICK, transport=httpx.MockTransport(serve)) as client:
        kinds = [event.kind for event in client.events("job_1")]
    assert kinds == ["running", "progress", "succeeded"]
    assert asked == [None, "1-0", "2-0"]


def test_events_are_asked_for_again_where_the_service_says_so() -> None:
    asked: list[str | None] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 2:
            body = {"code": "jobs_unavailable", "detail": "the job store does not answer"}
            return httpx.Response(503, headers={"retry-after-ms": "1"}, json=body)
        if len(asked) == 3:
            return httpx.Response(204)
        text = "id: 1-0\nevent: running\ndata: {}\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    retries = Retries(attempts=4, first=0.01)
    with Client(retries=retries, transport=httpx.MockTransport(serve)) as client:
        assert [event.kind for event in client.events("job_1")] == ["running"]
    assert asked == [None, "1-0", "1-0"]


def test_events_of_no_job_are_a_problem() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"code": "unknown_job", "detail": "there is no such job"})

    transport = httpx.MockTransport(refuse)
    with (
        Client(retries=QUICK, transport=transport) as client,
        pytest.raises(ProblemError, match="unknown_job"),
    ):
        list(client.events("job_1"))
