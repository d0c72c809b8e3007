"""Calls answered as streams of events, around an engine in memory."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import Array
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import EVENTS, LATENT

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]
REQUEST = {"label": 0, "seed": 3, "n": 2}


def _events(response: Any) -> list[tuple[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(EVENTS)
    blocks = [block for block in response.text.split("\n\n") if block.startswith("event: ")]
    pairs = (block.split("\n", 1) for block in blocks)
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in pairs
    ]


def test_a_stream_ends_with_the_answer_of_the_plain_request(client: TestClient, ok: Ok) -> None:
    plain = ok(client.post("/generate", json=REQUEST))
    told = _events(client.post("/generate", json={**REQUEST, "stream": True, "previews": 1}))
    kinds = [name for name, _ in told]
    assert (kinds[0], kinds[-1]) == ("accepted", "result")
    assert sorted(kinds[1:-1]) == ["preview", "preview", "progress"]
    assert told[-1][1] == plain
    assert told[0][1]["steps"] == 1
    (progress,) = (data for name, data in told if name == "progress")
    assert progress == {"done": 1, "steps": 1, "stage": "decode", "eta": 0.0}
    looks = [data for name, data in told if name == "preview"]
    assert [look["sample"] for look in looks] == [0, 1]
    assert Image.open(io.BytesIO(base64.b64decode(looks[0]["b64"]))).size == (8, 8)


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        (EVENTS, True),
        (f"application/json;q=0.5, {EVENTS}", True),
        (f"application/json, {EVENTS};q=0.5", False),
        ("*/*", False),
        (f"{EVENTS};q=0, */*", False),
    ],
)
def test_the_accept_header_asks_for_a_stream(
    client: TestClient, accept: str, streams: bool
) -> None:
    response = client.post("/generate", json=REQUEST, headers={"accept": accept})
    assert response.headers["content-type"].startswith(EVENTS) is streams


def test_decoding_streams_too(client: TestClient, ok: Ok) -> None:
    z = Array((2, 4, 2, 2), "float32", np.zeros(32, "<f4").tobytes())
    headers = {"content-type": LATENT}
    file = write(z, "z_0", fake_card())
    plain = ok(client.post("/decode?seed=1", content=file, headers=headers))
    path = "/decode?seed=1&stream=true&previews=1"
    told = _events(client.post(path, content=file, headers=headers))
    assert told[-1] == ("result", plain)
    assert [name for name, _ in told].count("preview") == 2


def test_what_fails_later_is_the_last_event(client: TestClient, fake: FakeEngine) -> None:
    with fake.hold():
        told = _events(client.post("/generate", json={**REQUEST, "stream": True, "timeout": 0.01}))
    assert [name for name, _ in told] == ["accepted", "error"]
    assert (told[1][1]["status"], told[1][1]["code"]) == (504, "deadline_exceeded")


def test_what_is_wrong_before_is_an_answer_of_its_own(
    client: TestClient, fake: FakeEngine, check_problem: CheckProblem
) -> None:
    check_problem(client.post("/generate", json={**REQUEST, "label": 9, "stream": True}), 422)
    check_problem(client.post("/generate", json={**REQUEST, "previews": 2}), 422, "previews")
    body = {**REQUEST, "stream": True, "previews": 17}
    assert check_problem(client.post("/generate", json=body), 422, "previews")["limit"] == 16
    fake._max_pending = 0
    busy = client.post("/generate", json={**REQUEST, "stream": True})
    assert check_problem(busy, 503)["code"] == "busy"


def test_a_receipt_names_the_checkpoint_that_the_result_came_from(
    client: TestClient, fake: FakeEngine, ok: Ok
) -> None:
    """What was on its way when a model was replaced comes from the old one."""
    before = dict(fake._models)
    assert client.portal is not None
    card = client.portal.call(fake.reload, "fake", "/new")
    fake._models.update(before)
    told = ok(client.post("/generate", json=REQUEST))
    digests = {item["receipt"]["digest"] for item in told["data"]}
    assert digests == {fake_card().digest} != {card.digest}
