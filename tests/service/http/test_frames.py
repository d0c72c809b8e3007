from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.forecast import row_steps
from unified_latents.service.engine.frames import MAX_FRAME
from unified_latents.service.engine.messages import Array, Decode, Encode, Generate
from unified_latents.service.http import clips, frames
from unified_latents.service.http.app import create_app
from unified_latents.service.http.negotiation import LATENT
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

Check = Callable[..., dict[str, Any]]


@pytest.fixture
def engine() -> FakeEngine:
    """Clips of four frames, two of which may be known; pictures beside them."""
    film = msgspec.structs.replace(
        fake_card("film"), size=(4, 8, 8), latent_shape=(4, 1, 2, 2), known_frames=2
    )
    return FakeEngine(film, fake_card())


@pytest.fixture
def http(engine: FakeEngine) -> Iterator[TestClient]:
    app = create_app(Settings(max_pixels=10_000, max_frames=32), engine, Metrics())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def film(frames: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """An animated PNG of noise."""
    pixels = np.random.default_rng(frames).integers(0, 256, (1, 1, frames, *size), np.uint8)
    return clips.write(Array(pixels.shape, "uint8", pixels.tobytes()), "apng")[0]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(http: TestClient, *files: bytes, **more: Any) -> Any:
    frames = {"frames": [base64_of(file) for file in files]} if files else {}
    body = {"label": 0, "seed": 1, **frames, **more}
    return http.post("/generate", json=body)


@pytest.mark.parametrize(
    ("format", "kind"),
    [("mp4", "video/mp4"), ("webm", "video/webm"), ("gif", "image/gif"), ("apng", "image/apng")],
)
def test_a_clip_is_answered_in_every_form(http: TestClient, format: str, kind: str) -> None:
    answer = http.post(
        "/generate", json={"label": 0, "seed": 1, "format": format}, headers={"Accept": kind}
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == kind
    assert len(clips.read([answer.content], 4, 10_000, "answer")) == 4


def test_mp4_is_the_default(http: TestClient) -> None:
    [item] = ask(http).json()["data"]
    assert item["media_type"] == "video/mp4"
    assert item["receipt"]["codec"].startswith("av ")


def test_known_frames_reach_the_engine(http: TestClient, engine: FakeEngine) -> None:
    assert ask(http, film(2)).status_code == 200
    request = engine.requests[-1]
    assert isinstance(request, Generate)
    assert request.frames is not None
    assert request.frames.shape == (1, 2, 8, 8)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 1, 2, 8, 8), np.uint8)
    assert request.frames.data == pixels.tobytes()


def test_frames_may_come_one_by_one(http: TestClient, engine: FakeEngine) -> None:
    ask(http, film(1), film(1))
    request = engine.requests[-1]
    assert isinstance(request, Generate)
    assert request.frames is not None
    assert request.frames.shape == (1, 2, 8, 8)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_count_is_named(http: TestClient, check_problem: Check, count: int) -> None:
    error = check_problem(ask(http, film(count)), 422, "frames")
    assert error["limit"] == 2


def test_two_sizes_are_named(http: TestClient, check_problem: Check) -> None:
    error = check_problem(ask(http, film(1), film(1, (8, 16))), 422, "frames[1]")
    assert error["limit"] == "8x8"


def test_a_model_of_pictures_is_shown_none(http: TestClient, check_problem: Check) -> None:
    assert check_problem(ask(http, film(2), model="fake"), 422, "frames")["limit"] == 0


@pytest.mark.parametrize(("model", "format"), [("fake", "mp4"), ("film", "png")])
def test_a_format_of_the_other_kind_is_refused(
    http: TestClient, check_problem: Check, model: str, format: str
) -> None:
    error = check_problem(ask(http, model=model, format=format), 422, "format")
    assert format not in error["limit"].split(", ")


def test_a_clip_is_encoded_and_decoded(http: TestClient, engine: FakeEngine) -> None:
    file = film(4)
    answer = http.post("/encode?fit=exact", content=file, headers={"Content-Type": "image/apng"})
    assert answer.status_code == 200, answer.text
    request = engine.requests[-1]
    assert isinstance(request, Encode)
    assert request.image.shape == (1, 4, 8, 8)
    body = answer.json()
    assert body["shape"] == [1, 4, 1, 2, 2]
    latent = {"Content-Type": body["media_type"]}
    decoded = http.post("/decode?seed=1", content=base64.b64decode(body["latent"]), headers=latent)
    assert decoded.headers["content-type"] == "video/mp4"


def test_a_clip_of_another_length_is_refused(http: TestClient, check_problem: Check) -> None:
    headers = {"Content-Type": "image/apng"}
    answer = http.post("/encode", content=film(5), headers=headers)
    assert check_problem(answer, 422, "image")["limit"] == 4


def latent_of(http: TestClient, frames: int) -> bytes:
    answer = http.post(
        "/encode?fit=exact", content=film(frames), headers={"Content-Type": "image/apng"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["shape"] == [1, 4, frames // 4, 2, 2]
    return base64.b64decode(answer.json()["latent"])


def decode(http: TestClient, latent: bytes, accept: str = "image/apng") -> Any:
    headers = {"Content-Type": LATENT, "Accept": accept}
    return http.post("/decode?seed=1", content=latent, headers=headers)


def test_a_long_clip_is_encoded_and_decoded(http: TestClient, engine: FakeEngine) -> None:
    latent = latent_of(http, 32)
    asked = engine.requests[-1]
    assert isinstance(asked, Encode)
    assert (asked.image.shape, asked.windows) == ((1, 32, 8, 8), 8)
    answer = decode(http, latent)
    assert answer.status_code == 200, answer.text
    assert len(clips.read([answer.content], 32, 10_000, "answer")) == 32
    request = engine.requests[-1]
    assert isinstance(request, Decode)
    assert request.windows == 8
    assert row_steps(request) == 8 * request.decode.steps
    body = {"receipt": json.loads(answer.headers["UL-Receipt"]), "input": base64_of(latent)}
    assert http.post("/replay", json=body).json()["match"]


def test_a_long_clips_encoding_is_replayed(http: TestClient) -> None:
    file, headers = film(8), {"Content-Type": "image/apng"}
    receipt = http.post("/encode?fit=exact&seed=3", content=file, headers=headers).json()["receipt"]
    again = http.post("/replay", json={"receipt": receipt, "input": base64_of(file)})
    assert again.json()["match"], again.text


def test_frames_are_bounded(http: TestClient, engine: FakeEngine, check_problem: Check) -> None:
    headers = {"Content-Type": "image/apng"}
    many = http.post("/encode", content=film(36), headers=headers)
    assert check_problem(many, 422, "image")["limit"] == 32
    large = http.post("/encode", content=film(8, (90, 90)), headers=headers)
    assert check_problem(large, 422, "image")["limit"] == 4 * 10_000
    short = http.post("/encode", content=film(3), headers=headers)
    assert check_problem(short, 422, "image")["limit"] == 4
    rated = http.post("/encode?bitrate=true", content=film(8), headers=headers)
    assert check_problem(rated, 422, "bitrate")["limit"] == 4
    assert not engine.requests


@pytest.mark.parametrize(
    "shape", [[1, 4, 9, 2, 2], [2, 4, 5, 2, 2], [1, 4, 250_000, 2, 2], [1, 4, 2**60, 2, 2]]
)
def test_too_long_a_latent_is_refused_by_its_header(
    http: TestClient, engine: FakeEngine, check_problem: Check, shape: list[int]
) -> None:
    """A million frames: what the header claims is not there, and need not be."""
    card = engine.ready.models[0] if engine.ready else fake_card()
    z = {"dtype": "F32", "shape": shape, "data_offsets": [0, math.prod(shape) * 4]}
    said = {"kind": "z_0", "latent_space": card.latent_space}
    text = json.dumps({"__metadata__": said, "z": z}).encode()
    body = len(text).to_bytes(8, "little") + text
    assert check_problem(decode(http, body), 422, "z.shape")["limit"] == 32


def test_a_clip_is_no_longer_than_a_message_can_hold() -> None:
    card = msgspec.structs.replace(fake_card(), size=(16, 512, 512), latent_shape=(4, 4, 64, 64))
    longest = frames.most(card, Settings(max_frames=10**6))
    assert 2 * 4 * 512 * 512 * longest < MAX_FRAME < 2 * 4 * 512 * 512 * 4 * longest


def test_a_clip_is_replayed_from_its_frames(http: TestClient, check_problem: Check) -> None:
    known = film(2)
    [item] = ask(http, known, format="apng").json()["data"]
    pixels = np.random.default_rng(2).integers(0, 256, (1, 1, 2, 8, 8), np.uint8)
    assert item["receipt"]["input_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    body = {"receipt": item["receipt"], "input": base64_of(known)}
    again = http.post("/replay", json=body)
    assert again.status_code == 200, again.text
    assert again.json()["match"]
    check_problem(http.post("/replay", json={"receipt": item["receipt"]}), 422, "input")
    other = {"receipt": item["receipt"], "input": base64_of(known[:-30] + film(2, (8, 8))[-30:])}
    assert http.post("/replay", json=other).status_code == 200
    wrong = {"receipt": item["receipt"], "input": base64_of(film(1) + b"")}
    check_problem(http.post("/replay", json=wrong), 422, "frames")


@pytest.mark.parametrize(("model", "format"), [("fake", "apng"), ("film", "png")])
def test_a_receipt_with_another_format_is_refused_before_it_is_run(
    http: TestClient, engine: FakeEngine, check_problem: Check, model: str, format: str
) -> None:
    [item] = ask(http, model=model).json()["data"]
    ran = len(engine.requests)
    answer = http.post("/replay", json={"receipt": item["receipt"] | {"format": format}})
    check_problem(answer, 422, "receipt.format")
    assert len(engine.requests) == ran


@pytest.mark.parametrize(
    ("frames", "size", "limit"),
    [(1, (90, 90), 64), (9, (8, 8), 4), (2, (8, 8), 4), (4, (4, 8), "8x8")],
)
def test_an_original_is_read_no_further_than_what_it_is_compared_with(
    http: TestClient, check_problem: Check, frames: int, size: tuple[int, int], limit: object
) -> None:
    item = ask(http, format="apng").json()["data"][0]
    file = film(frames, size)
    changes = {"numerics": "another", "sha256": hashlib.sha256(file).hexdigest()}
    body = {"receipt": {**item["receipt"], **changes}, "tolerance": True}
    answer = http.post("/replay", json={**body, "original": base64_of(file)})
    assert check_problem(answer, 422)["errors"][0]["limit"] == limit
