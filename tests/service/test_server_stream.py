"""Streams of a real engine over a real connection."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import openai
from httpx_sse import connect_sse
from PIL import Image

REQUEST = {"model": "tiny", "label": 1, "seed": 4, "n": 2}


def test_a_stream_tells_its_steps_and_ends_with_the_plain_answer(live: Any) -> None:
    plain = live.http.post("/generate", json=REQUEST).json()
    with connect_sse(live.http, "POST", "/generate", json={**REQUEST, "stream": True}) as source:
        told = [(event.event, json.loads(event.data)) for event in source.iter_sse()]
    assert told[0][0] == "accepted"
    assert told[-1] == ("result", plain)
    done = [data["done"] for name, data in told if name == "progress"]
    assert done == sorted(done)
    assert done[-1] == told[0][1]["steps"]


def test_leaving_a_stream_stops_its_work(live: Any) -> None:
    before = _cancelled(live)
    body = {**REQUEST, "n": 16, "steps": {"base": 1000, "decode": 1000}, "stream": True}
    with (
        httpx.Client(base_url=live.url, timeout=120) as leaver,
        connect_sse(leaver, "POST", "/generate", json=body) as source,
    ):
        first = next(event for event in source.iter_sse() if event.event == "progress")
        assert json.loads(first.data)["done"] < 1000
    with connect_sse(live.http, "POST", "/generate", json={**REQUEST, "stream": True}) as source:
        assert [event.event for event in source.iter_sse()][-1] == "result"
    assert _cancelled(live) == before + 1
    assert 'ul_inflight_rows{stage="base"} 0.0' in live.http.get("/metrics").text


def test_openais_package_streams_partial_images(live: Any) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as sdk:
        extra = {"seed": 5}
        whole = sdk.images.generate(model="tiny", prompt="circle", extra_body=extra)
        *partial, completed = sdk.images.generate(
            model="tiny", prompt="circle", stream=True, partial_images=2, extra_body=extra
        )
    assert whole.data is not None
    assert completed.b64_json == whole.data[0].b64_json
    assert 1 <= len(partial) <= 2
    for index, image in enumerate(partial):
        assert image.type == "image_generation.partial_image"
        assert image.partial_image_index == index
        assert Image.open(io.BytesIO(base64.b64decode(image.b64_json))).size == (16, 16)


def _cancelled(live: Any) -> float:
    lines = live.http.get("/metrics").text.splitlines()
    name = 'ul_cancelled_total{phase="running"} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
