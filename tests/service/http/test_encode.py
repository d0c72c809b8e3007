"""POST /encode, around an engine in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.http.negotiation import LATENT
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]
Picture = Callable[..., bytes]


def test_the_three_ways_to_send_a_picture_are_one(
    client: TestClient, ok: Ok, picture: Picture
) -> None:
    data = picture()
    raw = ok(client.post("/encode?seed=1", content=data, headers={"content-type": "image/png"}))
    form = ok(client.post("/encode?seed=1", files={"image": ("x.png", data)}))
    text = base64.b64encode(data).decode()
    assert raw == form == ok(client.post("/encode?seed=1", json={"image": text}))
    assert (raw["kind"], raw["shape"], raw["bitrate"]) == ("z_clean", [1, 4, 2, 2], None)
    assert raw["latent_space"] == fake_card().latent_space
    assert raw["fit"]["mode"] == "crop"


def test_encode_with_its_bitrate_in_every_unit(
    client: TestClient, ok: Ok, picture: Picture
) -> None:
    headers = {"content-type": "image/png"}
    body = ok(client.post("/encode?bitrate=true&levels=8", content=picture(), headers=headers))
    bits = 10 / np.log(2)
    assert body["bitrate"] == {
        "nats": 10.0, "bits": pytest.approx(bits), "bits_per_pixel": pytest.approx(bits / 64),
        "bits_per_dim": pytest.approx(bits / 16), "levels": 8, "std_error": 0.5,
    }  # fmt: skip


def test_encode_to_a_bare_file(client: TestClient, ok: Ok, picture: Picture) -> None:
    headers = {"content-type": "image/png", "accept": LATENT}
    path = "/encode?bitrate=true&mode=noised&seed=4"
    bare = client.post(path, content=picture(), headers=headers)
    assert bare.headers["content-type"] == LATENT
    body = ok(client.post(path, content=picture(), headers={**headers, "accept": "*/*"}))
    assert base64.b64decode(body["latent"]) == bare.content
    assert body["sha256"] == hashlib.sha256(bare.content).hexdigest()
    assert json.loads(bare.headers["ul-fit"]) == body["fit"]
    assert json.loads(bare.headers["ul-bitrate"]) == body["bitrate"]
    assert body["kind"] == "z_0"


@pytest.mark.parametrize(
    ("query", "field", "limit"),
    [
        ("levels=0", "levels", 1),
        ("levels=1025", "levels", 1024),
        ("mode=median", "mode", "'mean' or 'noised'"),
        ("fit=stretch", "fit", "'crop', 'pad' or 'exact'"),
        ("seed=nan", "seed", None),
        ("colour=red", "colour", None),
        ("bitrate=maybe", "bitrate", None),
    ],
)
def test_bad_encode_queries(
    client: TestClient,
    query: str,
    field: str,
    limit: object,
    check_problem: CheckProblem,
    picture: Picture,
) -> None:
    headers = {"content-type": "image/png"}
    response = client.post(f"/encode?{query}", content=picture(), headers=headers)
    assert check_problem(response, 422, field)["limit"] == limit


def test_exact_wants_the_size(
    client: TestClient, check_problem: CheckProblem, picture: Picture
) -> None:
    headers = {"content-type": "image/png"}
    response = client.post("/encode?fit=exact", content=picture(8, 9), headers=headers)
    assert check_problem(response, 422, "image")["limit"] == "8x8"


@pytest.mark.parametrize(
    "files",
    [
        {"picture": b"x"},
        [("image", b"x"), ("image", b"y")],
        {"image": (None, "a field, not a file")},
    ],
)
def test_forms_need_one_file_called_image(
    client: TestClient, files: Any, check_problem: CheckProblem
) -> None:
    check_problem(client.post("/encode", files=files), 422, "image")


def test_a_broken_form_is_a_problem(client: TestClient, check_problem: CheckProblem) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x\r\n",
        b"garbage",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
    ):
        check_problem(client.post("/encode", content=body, headers=headers), 422, "image")
    missing = client.post("/encode", content=b"x", headers={"content-type": "multipart/form-data"})
    check_problem(missing, 422, "image")


def test_only_the_picture_may_be_long(fake: FakeEngine, check_problem: CheckProblem) -> None:
    crowd = {f"field{i}": i for i in range(8000)}
    with TestClient(
        create_app(Settings(max_body=2**20), fake, Metrics()), base_url="http://localhost"
    ) as roomy:
        for route in ("/generate", "/encode"):
            check_problem(roomy.post(route, json=crowd), 413, "body")
        few = dict(list(crowd.items())[:2000])
        refused = roomy.post("/generate", json=few)
        check_problem(refused, 422)
        assert len(refused.json()["errors"]) == 16


def test_base64_is_base64(client: TestClient, check_problem: CheckProblem) -> None:
    check_problem(client.post("/encode", json={"image": "a!b"}), 422, "image")
    check_problem(client.post("/encode", json={"image": ""}), 422, "image")
