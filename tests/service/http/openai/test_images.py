"""OpenAI's own Python package against the service."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.app import create_app
from unified_latents.service.keys import KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

Ok = Callable[[Any], Any]
SECRET, KEY = create("sdk", ["generate"], 7200)
STRANGER, OTHER = create("other", ["encode"])
COST = 12
"""Row-steps of one picture: four guided base steps and four of the decoder."""


@pytest.fixture
def url(fake: FakeEngine, listening: Callable[[FastAPI], str]) -> str:
    return listening(create_app(Settings(), fake, Metrics(), KeyRing([KEY, OTHER]))) + "/v1"


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=SECRET, max_retries=0) as client:
        yield client


def test_it_generates_the_pictures_of_our_own_route(
    sdk: openai.OpenAI, client: TestClient, ok: Ok
) -> None:
    made = sdk.images.generate(prompt="Circle", n=2, size="8x8", user="me", extra_body={"seed": 3})
    plain = ok(client.post("/generate", json={"label": "circle", "n": 2, "seed": 3}))
    assert made.data is not None
    assert [datum.b64_json for datum in made.data] == [item["b64"] for item in plain["data"]]
    assert made.data[1].receipt == plain["data"][1]["receipt"]  # type: ignore[attr-defined]
    assert (made.size, made.output_format) == ("8x8", "png")
    assert made.usage is not None
    assert made.usage.total_tokens == 0


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_it_writes_other_formats(sdk: openai.OpenAI, format: Any) -> None:
    made = sdk.images.generate(prompt="square", output_format=format)
    assert made.data is not None
    data = base64.b64decode(made.data[0].b64_json or "")
    assert Image.open(io.BytesIO(data)).format == format.upper()


def test_it_streams_partial_images(sdk: openai.OpenAI) -> None:
    plain = sdk.images.generate(prompt="circle", extra_body={"seed": 3})
    stream = sdk.images.generate(
        prompt="circle", stream=True, partial_images=1, extra_body={"seed": 3}
    )
    partial, completed = list(stream)
    assert partial.type == "image_generation.partial_image"
    assert partial.partial_image_index == 0
    assert Image.open(io.BytesIO(base64.b64decode(partial.b64_json))).size == (8, 8)
    assert completed.type == "image_generation.completed"
    assert plain.data is not None
    assert completed.b64_json == plain.data[0].b64_json
    assert completed.usage.total_tokens == 0


def test_it_lists_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["fake", "plain"]
    assert sdk.models.retrieve("plain").owned_by == "unified-latents"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("gpt-image-1")
    assert caught.value.code == "model_not_found"


def test_it_waits_as_long_as_we_say(url: str) -> None:
    """7200 a minute are 120 a second: after the budget is spent, one picture takes 0.1 s."""
    with openai.OpenAI(base_url=url, api_key=SECRET, max_retries=0) as hasty:
        limit: openai.RateLimitError | None = None
        for _ in range(200):
            try:
                hasty.images.generate(prompt="circle", n=10)
            except openai.RateLimitError as error:
                limit = error
                break
        assert limit is not None
        assert (limit.code, limit.type) == ("budget_exceeded", "rate_limit_error")
        wait = int(limit.response.headers["retry-after-ms"])
        assert 0 < wait <= 10 * COST / 120 * 1000
        assert limit.response.headers["x-should-retry"] == "true"
    with openai.OpenAI(base_url=url, api_key=SECRET, max_retries=4) as patient:
        assert patient.images.generate(prompt="circle", n=10).data


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": "triangle"}, "prompt"),
        ({"size": "1024x1024"}, "size"),
        ({"n": 11}, "n"),
        ({"response_format": "url"}, "response_format"),
        ({"quality": "hd"}, "quality"),
        ({"partial_images": 2}, "partial_images"),
        ({"extra_body": {"mask": "x"}}, "mask"),
    ],
)
def test_errors_are_its_own(sdk: openai.OpenAI, change: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.images.generate(**{"prompt": "circle", **change})
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_keys_and_scopes_are_its_errors_too(url: str) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong:
        openai.OpenAI(base_url=url, api_key="wrong").models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        openai.OpenAI(base_url=url, api_key=STRANGER).images.generate(prompt="circle")


def test_what_fails_in_a_stream_is_an_error_of_the_stream(
    sdk: openai.OpenAI, fake: FakeEngine
) -> None:
    with fake.hold():
        stream = sdk.images.generate(prompt="circle", stream=True)
        fake._state = "stopped"
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)
