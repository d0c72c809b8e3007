"""OpenAI's own Python package against /v1/videos, jobs on a real store behind it."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from openai.types.video import Video
from openai.types.video_create_params import VideoCreateParams

from tests.service.jobs.conftest import Desk
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import Array, Generate
from unified_latents.service.http import clips
from unified_latents.service.http.app import create_app
from unified_latents.service.keys import KeyRing, create

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

SECRET, KEY = create("sdk", ["jobs", "generate"], 100_000)
STRANGER, OTHER = create("other", ["jobs", "generate"])
WEAK, HALF = create("weak", ["jobs"])
FILM = msgspec.structs.replace(
    fake_card("film"), size=(4, 8, 8), latent_shape=(4, 1, 2, 2), known_frames=2
)
TAKEN: dict[str, tuple[Any, ...]] = {
    "prompt": ("circle", "SQUARE"),
    "model": ("film",),
    "seconds": ("0.5",),
    "size": ("8x8",),
    "input_reference": (),
}
REFUSED: dict[str, tuple[Any, ...]] = {
    "prompt": ("triangle", "", "x" * 32_000),
    "model": ("sora-2", "fake"),
    "seconds": ("4", "8", "12", ""),
    "size": ("720x1280", "1280x720", "1024x1792", "1792x1024"),
    "input_reference": (b"no clip", b""),
}


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Desk:
    """A model of pictures and one of clips."""
    return Desk(url, tmp_path, fake_card(), FILM)


@pytest.fixture
def engine(desk: Desk) -> FakeEngine:
    return desk.engine


@pytest.fixture
def address(desk: Desk, listening: Callable[[FastAPI], str]) -> str:
    ring = KeyRing([KEY, OTHER, HALF])
    settings = desk.jobs._settings
    return listening(create_app(settings, desk.engine, desk.metrics, ring, desk.jobs)) + "/v1"


@pytest.fixture
def sdk(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key=SECRET, max_retries=0) as client:
        yield client


def film(frames: int) -> bytes:
    """An animated PNG of noise."""
    pixels = np.random.default_rng(frames).integers(0, 256, (1, 1, frames, 8, 8), np.uint8)
    return clips.write(Array(pixels.shape, "uint8", pixels.tobytes()), "apng")[0]


def test_it_creates_polls_and_downloads(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    video = sdk.videos.create_and_poll(prompt="Circle", extra_body={"seed": 3})
    assert (video.status, video.progress, video.object) == ("completed", 100, "video")
    assert (video.model, video.prompt, video.seconds, video.size) == (
        "film", "circle", "0.5", "8x8",
    )  # fmt: skip
    assert re.fullmatch("video_[0-9a-f]{32}", video.id)
    assert video.completed_at is not None
    assert video.expires_at is not None
    assert video.created_at <= video.completed_at < video.expires_at
    Video.model_validate(video.to_dict() | {"size": "720x1280"}, strict=True)
    file = sdk.videos.download_content(video.id)
    assert file.response.headers["content-type"] == "video/mp4"
    assert len(clips.read([file.content], 4, 10_000, "answer")) == 4
    (request,) = engine.requests
    assert isinstance(request, Generate)
    assert (request.model, request.seed, request.label) == ("film", 3, 0)
    part = sdk.videos.download_content(video.id, extra_headers={"Range": "bytes=4-7"})
    assert part.content == file.content[4:8] == b"ftyp"


def test_it_tells_how_far_a_video_is(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    with engine.hold():
        video = sdk.videos.create(prompt="circle")
        assert video.status in ("queued", "in_progress")
        seen = sdk.videos.with_raw_response.retrieve(video.id)
        assert int(seen.headers["openai-poll-after-ms"]) > 0
        assert 0 <= seen.parse().progress < 100
        with pytest.raises(openai.ConflictError) as early:
            sdk.videos.download_content(video.id)
        assert early.value.code == "job_not_finished"
    assert sdk.videos.poll(video.id).status == "completed"


def test_known_frames_are_its_input_reference(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    video = sdk.videos.create_and_poll(prompt="circle", input_reference=film(2))
    assert video.status == "completed"
    (request,) = engine.requests
    assert isinstance(request, Generate)
    assert request.frames is not None
    assert request.frames.shape == (1, 2, 8, 8)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.videos.create(prompt="circle", input_reference=("x.png", io.BytesIO(film(3))))
    assert caught.value.param == "input_reference"


def test_it_lists_videos_and_no_other_jobs(sdk: openai.OpenAI) -> None:
    made = [sdk.videos.create(prompt="circle").id for _ in range(5)]
    plain = sdk.with_options(base_url=str(sdk.base_url).removesuffix("v1/"))
    body = {"kind": "generate", "request": {"label": "circle", "model": "fake"}}
    plain.post("/jobs", body=body, cast_to=object)
    assert [video.id for video in sdk.videos.list(limit=2)] == made[::-1]
    page = sdk.videos.list(limit=2, after=made[3])
    assert ([video.id for video in page.data], page.has_more) == ([made[2], made[1]], True)
    with pytest.raises(openai.BadRequestError) as order:
        sdk.videos.list(order="asc")
    assert order.value.param == "order"
    with pytest.raises(openai.NotFoundError) as after:
        sdk.videos.list(after="video_1")
    assert after.value.param == "after"


def test_a_finished_video_is_deleted(sdk: openai.OpenAI) -> None:
    video = sdk.videos.create_and_poll(prompt="circle")
    gone = sdk.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    assert list(sdk.videos.list()) == []
    for ask in (sdk.videos.retrieve, sdk.videos.delete, sdk.videos.download_content):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(video.id)
        assert caught.value.code == "unknown_video"


def test_a_running_video_is_cancelled_and_deleted(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    """While its worker has it still, the package comes back by itself, when we say."""
    with engine.hold():
        video = sdk.videos.create(prompt="circle")
        while not engine.in_flight:
            time.sleep(0.01)
        assert sdk.with_options(max_retries=20).videos.delete(video.id).deleted
    assert len(engine.cancelled) == 1
    assert list(sdk.videos.list()) == []


def test_a_cancelled_video_has_failed(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    plain = sdk.with_options(base_url=str(sdk.base_url).removesuffix("v1/"))
    with engine.hold():
        video = sdk.videos.create(prompt="circle")
        plain.delete(f"/jobs/{video.id}", cast_to=object)
        ended = sdk.videos.poll(video.id)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "cancelled"
    with pytest.raises(openai.ConflictError):
        sdk.videos.download_content(video.id)


def test_a_key_of_idempotency_is_one_video(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    key = {"Idempotency-Key": "mine"}
    made = {sdk.videos.create(prompt="circle", extra_headers=key).id for _ in range(3)}
    assert len(made) == 1
    with pytest.raises(openai.ConflictError) as caught:
        sdk.videos.create(prompt="square", extra_headers=key)
    assert caught.value.code == "idempotency_mismatch"


def _each(table: dict[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


def test_every_parameter_of_the_package_is_decided() -> None:
    known = get_type_hints(VideoCreateParams)
    assert set(known) == {*TAKEN} == {*REFUSED}


@pytest.mark.parametrize(("name", "value"), _each(TAKEN))
def test_what_is_honoured(sdk: openai.OpenAI, name: str, value: Any) -> None:
    said: Any = {"prompt": "circle", name: value}
    assert sdk.videos.create_and_poll(**said).status == "completed"


@pytest.mark.parametrize(("name", "value"), _each(REFUSED))
def test_what_is_refused_by_name(
    sdk: openai.OpenAI, engine: FakeEngine, name: str, value: Any
) -> None:
    wrong = openai.NotFoundError if name == "model" else openai.BadRequestError
    with pytest.raises(wrong) as caught:
        sdk.videos.create(**{"prompt": "circle", name: value})
    param = caught.value.param
    assert param is not None
    assert (param.removesuffix("[0]"), caught.value.type) == (name, "invalid_request_error")
    assert not engine.requests


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"extra_body": {"mask": "x"}}, "mask"),
        ({"extra_body": {"seed": "-1"}}, "seed"),
        ({"extra_body": {"input_reference": "http://127.0.0.1/"}}, "input_reference"),
        ({"extra_body": {"input_reference[file_id]": "x"}}, "input_reference[file_id]"),
    ],
)
def test_what_has_no_meaning_is_named(sdk: openai.OpenAI, change: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.videos.create(**{"prompt": "circle", **change})
    assert caught.value.param == param


def test_json_is_as_good_as_a_form(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    made: Any = sdk.post("/videos", body={"prompt": "circle", "seed": 4}, cast_to=Video)
    assert sdk.videos.poll(made.id).status == "completed"
    assert engine.requests[0].seed == 4
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.post("/videos", body={"prompt": "circle", "seed": "4"}, cast_to=Video)
    assert caught.value.status_code == 400


def test_other_variants_are_refused(sdk: openai.OpenAI) -> None:
    video = sdk.videos.create_and_poll(prompt="circle")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.videos.download_content(video.id, variant="thumbnail")
    assert caught.value.param == "variant"


def test_keys_and_scopes_are_those_of_jobs(address: str, sdk: openai.OpenAI) -> None:
    video = sdk.videos.create_and_poll(prompt="circle")
    with openai.OpenAI(base_url=address, api_key=STRANGER) as other:
        with pytest.raises(openai.NotFoundError):
            other.videos.retrieve(video.id)
        assert list(other.videos.list()) == []
    with (
        openai.OpenAI(base_url=address, api_key=WEAK) as weak,
        pytest.raises(openai.PermissionDeniedError),
    ):
        weak.videos.create(prompt="circle")
    with (
        openai.OpenAI(base_url=address, api_key="wrong") as wrong,
        pytest.raises(openai.AuthenticationError),
    ):
        wrong.videos.list()


def test_without_a_model_of_clips_there_are_none(
    url: str, tmp_path: Path, listening: Callable[[FastAPI], str]
) -> None:
    desk = Desk(url, tmp_path)
    app = create_app(desk.jobs._settings, desk.engine, desk.metrics, jobs=desk.jobs)
    with openai.OpenAI(base_url=f"{listening(app)}/v1", api_key="none", max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.videos.create(prompt="circle")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
