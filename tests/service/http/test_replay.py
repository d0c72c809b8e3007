"""POST /replay: the same bytes from a receipt, and the reasons why not."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import Array
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import LATENT

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]
Picture = Callable[..., bytes]
REQUEST = {"label": "square", "seed": 5, "n": 2, "steps": {"base": 3}, "guidance": 2}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _item(client: TestClient, ok: Ok, **changes: Any) -> dict[str, Any]:
    """The second sample of a request: its place is part of its receipt."""
    made: dict[str, Any] = ok(client.post("/generate", json={**REQUEST, **changes}))["data"][-1]
    return made


def _two_latents() -> bytes:
    values = np.arange(32, dtype="<f4") / 32
    return write(Array((2, 4, 2, 2), "float32", values.tobytes()), "z_0", fake_card())


@pytest.mark.parametrize("format", ["png", "webp", "jpeg", "latents"])
def test_a_generated_sample_comes_out_again(client: TestClient, ok: Ok, format: str) -> None:
    item = _item(client, ok, format=format)
    again = ok(client.post("/replay", json={"receipt": item["receipt"], "original": item["b64"]}))
    assert (again["match"], again["difference"]) == (True, 0.0)
    assert again["b64"] == item["b64"]
    assert again["receipt"] == item["receipt"]
    assert again["media_type"] == item["media_type"]


def test_latents_that_share_a_file_come_out_together(client: TestClient, ok: Ok) -> None:
    bare = client.post("/generate", json=REQUEST, headers={"accept": LATENT})
    receipt = msgspec.json.decode(bare.headers["ul-receipt"])
    assert receipt["n"] == 2
    again = ok(client.post("/replay", json={"receipt": receipt}))
    assert base64.b64decode(again["b64"]) == bare.content


def test_one_decoded_row_of_several_comes_out_again(
    client: TestClient, ok: Ok, check_problem: CheckProblem
) -> None:
    file, headers = _two_latents(), {"content-type": LATENT}
    item = ok(client.post("/decode?seed=2", content=file, headers=headers))["data"][1]
    request = {"receipt": item["receipt"], "input": _text(file)}
    assert ok(client.post("/replay", json=request))["b64"] == item["b64"]
    zeros = Array((1, 4, 2, 2), "float32", bytes(64))
    other = {**request, "input": _text(write(zeros, "z_0", fake_card()))}
    check_problem(client.post("/replay", json=other), 422, "input")


@pytest.mark.parametrize("mode", ["mean", "noised"])
def test_an_encoding_comes_out_again(
    client: TestClient, ok: Ok, check_problem: CheckProblem, picture: Picture, mode: str
) -> None:
    path, headers = f"/encode?fit=pad&mode={mode}", {"content-type": "image/png"}
    made = ok(client.post(path, content=picture(5, 7), headers=headers))
    assert made["receipt"]["numerics"] == "fake-strict"
    request = {"receipt": made["receipt"], "input": _text(picture(5, 7))}
    assert ok(client.post("/replay", json=request))["b64"] == made["latent"]
    other = client.post("/replay", json={**request, "input": _text(picture(5, 8))})
    check_problem(other, 422, "input")
    check_problem(client.post("/replay", json={"receipt": made["receipt"]}), 422, "input")


def test_the_model_is_found_by_its_digest(
    client: TestClient, ok: Ok, check_problem: CheckProblem
) -> None:
    receipt = _item(client, ok)["receipt"]
    assert ok(client.post("/replay", json={"receipt": {**receipt, "model": "elsewhere"}}))["match"]
    unknown = client.post("/replay", json={"receipt": {**receipt, "digest": "0" * 64}})
    assert check_problem(unknown, 409)["code"] == "model_mismatch"


@pytest.mark.parametrize("field", ["numerics", "codec"])
def test_another_engine_promises_a_tolerance_only(
    client: TestClient, ok: Ok, check_problem: CheckProblem, field: str
) -> None:
    item = _item(client, ok)
    receipt = {**item["receipt"], field: "another"}
    refused = client.post("/replay", json={"receipt": receipt})
    assert check_problem(refused, 409)["code"] == "numerics_mismatch"
    assert check_problem(refused, 409, f"receipt.{field}")["limit"] == item["receipt"][field]
    body = ok(client.post("/replay", json={"receipt": receipt, "tolerance": True}))
    assert (body["match"], body["difference"]) == (True, None)


def test_latents_do_not_depend_on_the_picture_libraries(client: TestClient, ok: Ok) -> None:
    receipt = {**_item(client, ok, format="latents")["receipt"], "codec": "another"}
    assert ok(client.post("/replay", json={"receipt": receipt}))["match"]


def test_a_tolerance_is_held_against_the_original(
    client: TestClient, fake: FakeEngine, ok: Ok, check_problem: CheckProblem
) -> None:
    item = _item(client, ok, format="latents")
    other = _item(client, ok, format="latents", seed=6)
    receipt = {**other["receipt"], "seed": 5, "numerics": "another"}
    request = {"receipt": receipt, "tolerance": True}
    body = ok(client.post("/replay", json=request))
    assert (body["match"], body["sha256"]) == (False, item["receipt"]["sha256"])
    refused = client.post("/replay", json={**request, "original": other["b64"]})
    assert check_problem(refused, 409, "original")["limit"] == 1e-3
    strange = client.post("/replay", json={**request, "original": item["b64"]})
    check_problem(strange, 422, "original")


def test_a_latent_within_the_tolerance_passes(client: TestClient, ok: Ok) -> None:
    item = _item(client, ok, format="latents")
    file = base64.b64decode(item["b64"])
    values = np.frombuffer(file[-64:], "<f4") + np.float32(5e-4)
    near = write(Array((1, 4, 2, 2), "float32", values.tobytes()), "z_0", fake_card())
    digest = hashlib.sha256(near).hexdigest()
    receipt = {**item["receipt"], "sha256": digest, "numerics": "another"}
    request = {"receipt": receipt, "tolerance": True, "original": _text(near)}
    body = ok(client.post("/replay", json=request))
    assert not body["match"]
    assert body["difference"] == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize(("strict", "tolerance", "status"), [(True, True, 409), (True, False, 409),
                                                             (False, False, 409),
                                                             (False, True, 200)])  # fmt: skip
def test_other_bytes_on_an_equal_engine(
    client: TestClient, ok: Ok, strict: bool, tolerance: bool, status: int
) -> None:
    item = _item(client, ok, strict=strict)
    wrong = {**item["receipt"], "seed": 6}
    response = client.post("/replay", json={"receipt": wrong, "tolerance": tolerance})
    assert response.status_code == status
    if status == 409:
        assert response.json()["code"] == "digest_mismatch"
        assert item["receipt"]["sha256"] in response.json()["detail"]
        assert len(response.json()["errors"][0]["limit"]) == 64
        assert ("strict mode" in response.json()["detail"]) is not strict


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": {}}, "receipt.steps.base"),
        ({"steps": {"base": 3}}, "receipt.steps.decode"),
        ({"steps": {"base": 1001, "decode": 3}}, "receipt.steps.base"),
        ({"label": 3}, "receipt.label"),
        ({"label": None}, "receipt.label"),
        ({"guidance": None}, "receipt.operation"),
        ({"n": 2}, "receipt.n"),
        ({"format": "latents", "n": 65}, "receipt.n"),
        ({"sha256": "short"}, "receipt.sha256"),
        ({"operation": "decode"}, "input"),
        ({"surprise": 1}, "receipt.surprise"),
        ({"guidance_interval": [2, -2]}, "receipt.guidance_interval"),
        ({"kernel_set": "other"}, "receipt.kernel_set"),
        ({"kind": "z_0"}, "receipt.kind"),
        ({"fit": "pad"}, "receipt.fit"),
    ],
)
def test_receipts_that_we_did_not_write(
    client: TestClient, ok: Ok, check_problem: CheckProblem, change: dict[str, Any], field: str
) -> None:
    receipt = copy.deepcopy(_item(client, ok)["receipt"]) | change
    check_problem(client.post("/replay", json={"receipt": receipt}), 422, field)


def test_nothing_is_sent_that_the_receipt_is_not_of(
    client: TestClient, ok: Ok, check_problem: CheckProblem
) -> None:
    body = {"receipt": _item(client, ok)["receipt"], "input": "AAAA"}
    check_problem(client.post("/replay", json=body), 422, "input")


def test_a_model_without_a_base_cannot_replay_a_generation(
    client: TestClient, ok: Ok, check_problem: CheckProblem
) -> None:
    receipt = {**_item(client, ok)["receipt"], "digest": fake_card("plain").digest}
    check_problem(client.post("/replay", json={"receipt": receipt}), 422, "receipt.operation")
