"""OpenAI's own Python package against the service."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import openai
import pytest
from fastapi import FastAPI
from openai.types.image_generate_params import (
    ImageGenerateParamsBase,
    ImageGenerateParamsNonStreaming,
)
from openai.types.images_response import ImagesResponse
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
TAKEN: dict[str, tuple[Any, ...]] = {
    "prompt": ("circle", "SQUARE"),
    "model": ("fake", None),
    "n": (1, 10, None),
    "size": ("8x8", "auto", None),
    "response_format": ("b64_json",),
    "output_format": ("png", "webp", "jpeg", None),
    "stream": (False, True, None),
    "partial_images": (0, None),
    "quality": ("auto", "standard", None),
    "background": ("auto", "opaque", None),
    "moderation": ("auto", "low", None),
    "user": ("me",),
    "safety_identifier": ("me", None),
}
REFUSED: dict[str, tuple[Any, ...]] = {
    "prompt": ("triangle", "", "x" * 32_000),
    "model": ("gpt-image-2",),
    "n": (0, 11),
    "size": ("1024x1024", "8x9", "", "8x8 "),
    "response_format": ("url",),
    "output_format": ("gif", "svg"),
    "partial_images": (1, 3, 4),
    "quality": ("low", "medium", "high", "xhigh", "max", "hd"),
    "background": ("transparent",),
    "style": ("vivid", "natural"),
    "output_compression": (0, 50, 100),
    "complexity": ("low", "high"),
    "frame_count": (2,),
    "frame_duration_ms": (200,),
    "svg": ({"model": "x"},),
}
"""Every parameter of the package's `images.generate`: what is honoured, and what is not."""
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


def _each(table: dict[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


def _choices(hint: Any) -> set[Any]:
    """The values that a type spells out."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return {value for part in get_args(hint) for value in _choices(part)}


def test_every_parameter_of_the_package_is_decided() -> None:
    known = get_type_hints(ImageGenerateParamsBase) | get_type_hints(
        ImageGenerateParamsNonStreaming
    )
    assert set(known) == {*TAKEN, *REFUSED}
    undecided = {
        (name, choice)
        for name, hint in known.items()
        if name not in ("model", "size", "svg", "complexity")
        for choice in _choices(hint) - {*TAKEN.get(name, ()), *REFUSED.get(name, ())}
    }
    assert undecided == set()


@pytest.mark.parametrize(("name", "value"), _each(TAKEN))
def test_what_is_honoured(sdk: openai.OpenAI, name: str, value: Any) -> None:
    made: Any = sdk.images.generate(**{"prompt": "circle", name: value})
    if name == "stream" and value:
        assert [event.type for event in made] == ["image_generation.completed"]
        return
    assert len(made.data) == (value if name == "n" and value else 1)
    assert made.output_format == ((value if name == "output_format" else None) or "png")
    assert made.to_dict().get("quality") is None
    ImagesResponse.model_validate(made.to_dict(), strict=True)


@pytest.mark.parametrize(("name", "value"), _each(REFUSED))
def test_what_is_refused_by_name(
    sdk: openai.OpenAI, fake: FakeEngine, name: str, value: Any
) -> None:
    wrong = openai.NotFoundError if name == "model" else openai.BadRequestError
    with pytest.raises(wrong) as caught:
        sdk.images.generate(**{"prompt": "circle", name: value})
    assert (caught.value.param, caught.value.type) == (name, "invalid_request_error")
    assert not fake.requests


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"extra_body": {"mask": "x"}}, "mask"),
        ({"extra_body": {"seed": -1}}, "seed"),
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
