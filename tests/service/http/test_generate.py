"""POST /generate, line by line of its contract, around an engine in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import fake_card
from unified_latents.service.http.images import codec
from unified_latents.service.http.negotiation import LATENT

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]
JSON = {"content-type": "application/json"}
SAMPLERS = "'ancestral', 'ddim' or 'dpmpp-2m'"


def test_generate_answers_json_with_receipts(client: TestClient, ok: Ok) -> None:
    request = {
        "model": "fake", "label": "square", "n": 2, "seed": 5, "steps": {"base": 3},
        "sampler": {"decode": "ddim"}, "guidance": 2, "guidance_interval": [-5, 2.5],
    }  # fmt: skip
    body = ok(client.post("/generate", json=request))
    assert body["model"] == "fake"
    assert [(item["seed"], item["sample"]) for item in body["data"]] == [(5, 0), (5, 1)]
    for item in body["data"]:
        data = base64.b64decode(item["b64"])
        assert item["media_type"] == "image/png"
        assert Image.open(io.BytesIO(data)).size == (8, 8)
        assert item["receipt"] == {
            "operation": "generate", "codec": codec(), "format": "png", "n": 1, "kind": None,
            "fit": None, "input_sha256": None, "model": "fake", "digest": fake_card().digest,
            "kernel_set": "reference", "numerics": "fake-strict",
            "sampler": {"base": "dpmpp-2m", "decode": "ddim"},
            "steps": {"base": 3, "decode": 4}, "seed": 5, "sample": item["sample"],
            "guidance": 2.0, "guidance_interval": [-5.0, 2.5], "label": 1, "strict": True,
            "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip


def test_only_the_label_is_needed_and_the_seed_is_reported(client: TestClient, ok: Ok) -> None:
    seeds = {ok(client.post("/generate", json={"label": 0}))["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize(("label", "index"), [("SQUARE", 1), (" circle ", 0), (1, 1), (None, 2)])
def test_labels(client: TestClient, label: object, index: int, ok: Ok) -> None:
    body = ok(client.post("/generate", json={"label": label}))
    assert body["data"][0]["receipt"]["label"] == index


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_an_accepted_image_type_gives_the_bytes(client: TestClient, kind: str, ok: Ok) -> None:
    request = {"label": 0, "seed": 3}
    bare = client.post("/generate", json=request, headers={"accept": f"image/{kind}"})
    assert bare.headers["content-type"] == f"image/{kind}"
    assert bare.headers["ul-seed"] == "3"
    (item,) = ok(client.post("/generate", json={**request, "format": kind}))["data"]
    assert base64.b64decode(item["b64"]) == bare.content
    assert json.loads(bare.headers["ul-receipt"]) == item["receipt"]


def test_format_beats_accept(client: TestClient) -> None:
    request = {"label": 0, "format": "png"}
    response = client.post("/generate", json=request, headers={"accept": "image/webp"})
    assert response.headers["content-type"] == "image/png"


def test_several_images_need_an_envelope(client: TestClient, check_problem: CheckProblem) -> None:
    response = client.post("/generate", json={"label": 0, "n": 2}, headers={"accept": "image/png"})
    check_problem(response, 406, "Accept")


def test_generated_latents_decode_to_the_generated_images(client: TestClient, ok: Ok) -> None:
    request = {"label": 0, "seed": 3, "n": 2}
    images = ok(client.post("/generate", json=request))["data"]
    latents = ok(client.post("/generate", json={**request, "format": "latents"}))["data"]
    assert {item["media_type"] for item in latents} == {LATENT}
    for i, (image, latent) in enumerate(zip(images, latents, strict=True)):
        decoded = client.post(
            f"/decode?seed=3&sample={i}",
            content=base64.b64decode(latent["b64"]),
            headers={"content-type": LATENT},
        )
        assert decoded.headers["content-type"] == "image/png"
        assert decoded.content == base64.b64decode(image["b64"])
    whole = client.post("/generate", json=request, headers={"accept": LATENT})
    both = ok(
        client.post("/decode?seed=3", content=whole.content, headers={"content-type": LATENT})
    )
    assert [item["b64"] for item in both["data"]] == [item["b64"] for item in images]


def test_a_model_without_a_base_cannot_generate(
    client: TestClient, check_problem: CheckProblem
) -> None:
    body = check_problem(client.post("/generate", json={"label": 0, "model": "plain"}), 409)
    assert body["code"] == "no_base_model"


BAD_GENERATE: list[tuple[str, str, object]] = [
    ('{"label": 0, "n": 0}', "n", 1),
    ('{"label": 0, "n": 1000000}', "n", 64),
    ('{"label": 0, "n": true}', "n", None),
    ('{"label": 0, "n": 1.5}', "n", None),
    ('{"label": 0, "n": "1"}', "n", None),
    ('{"label": 0, "steps": {"base": 0}}', "steps.base", 1),
    ('{"label": 0, "steps": {"decode": 1001}}', "steps.decode", 1000),
    ('{"label": 0, "steps": 5}', "steps", None),
    (
        '{"label": 0, "sampler": {"base": "euler"}}',
        "sampler.base",
        SAMPLERS,
    ),
    ('{"label": 0, "seed": -1}', "seed", 0),
    ('{"label": 0, "seed": 9007199254740992}', "seed", 2**53 - 1),
    ('{"label": 0, "seed": 1e400}', "seed", None),
    ('{"label": 0, "guidance": NaN}', "guidance", None),
    ('{"label": 0, "guidance": Infinity}', "guidance", None),
    ('{"label": 0, "guidance": 1e999}', "guidance", None),
    ('{"label": 0, "guidance": 100.5}', "guidance", 100),
    ('{"label": 0, "guidance": -1}', "guidance", 0),
    ('{"label": 0, "guidance_interval": [2, 1]}', "guidance_interval", None),
    ('{"label": 0, "guidance_interval": [NaN, 1]}', "guidance_interval.0", None),
    ('{"label": 0, "guidance_interval": [1]}', "guidance_interval.1", None),
    ('{"label": 0, "format": "gif"}', "format", "png, webp, jpeg, latents"),
    ('{"label": 0, "strict": 1}', "strict", None),
    ('{"label": 0, "colour": "red"}', "colour", None),
    ('{"label": 0, "<script>": 1}', "(unknown)", None),
    ('{"label": 2}', "label", 1),
    ('{"label": -1}', "label", 0),
    ('{"label": true}', "label", None),
    ('{"label": "triangle"}', "label", "circle, Square"),
    ("{}", "label", None),
    ("[]", "body", None),
    ("", "body", None),
    ('{"label": 0', "body", None),
    ("[" * 5000, "body", None),
    ('{"label": 0, "seed": ' + "9" * 5000 + "}", "body", None),
]


@pytest.mark.parametrize(("text", "field", "limit"), BAD_GENERATE)
def test_bad_generate_names_field_and_limit(
    client: TestClient, text: str, field: str, limit: object, check_problem: CheckProblem
) -> None:
    response = client.post("/generate", content=text, headers=JSON)
    assert check_problem(response, 422, field)["limit"] == limit
    for word in ("NaN", "Infinity", "triangle", "euler", "script", "input"):
        assert word not in response.text.replace("Input should", "")
    assert client.get("/readyz").status_code == 200
