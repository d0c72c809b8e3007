from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from tests.service.jobs.conftest import Desk
from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.app import create_app
from unified_latents.service.keys import KeyRing, create

HEADERS = {"content-type": "application/jsonl"}
Open = Callable[..., tuple[TestClient, FakeEngine]]


def row(name: str, **request: Any) -> dict[str, Any]:
    said = {"label": "circle", "seed": 4, **request}
    return {"custom_id": name, "kind": "generate", "request": said, "accept": "image/png"}


def lines(*rows: Any) -> bytes:
    """One JSON text a line; bytes as they are."""
    return b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows)


def ended(client: TestClient, path: str) -> Any:
    """The batch when it has ended."""
    for _ in range(1500):
        batch = client.get(path).json()
        if batch["finished_at"] or batch["state"] in ("failed", "cancelled"):
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def output(client: TestClient, path: str) -> list[Any]:
    """The lines of a batch's output."""
    answer = client.get(f"{path}/output")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/jsonl")
    return [json.loads(line) for line in answer.content.splitlines()]


def test_rows_come_out_in_order_and_a_bad_one_fails_alone(open_desk: Open) -> None:
    client, _ = open_desk()
    rows = lines(
        row("first"),
        b"{nonsense",
        row("third", label="no such label"),
        {"custom_id": "fourth", "kind": "dream", "request": {}},
        b'{"kind": "generate", "request": {"label": "circle"}}',
        {"custom_id": "sixth", "kind": "decode", "request": {"latent": "AAAA"}},
        b"",
        row("seventh", seed=9),
    )
    made = client.post("/batches", content=rows, headers=HEADERS)
    assert made.status_code == 202, made.text
    path = made.headers["location"]
    batch = ended(client, path)
    assert batch["state"] == "succeeded"
    assert batch["rows"] == {"total": 7, "ended": 7, "failed": 5}
    found = output(client, path)
    assert [line["index"] for line in found] == list(range(7))
    assert [line["status"] for line in found] == [200, 422, 422, 422, 422, 422, 200]
    names = ["first", None, "third", "fourth", None, "sixth", "seventh"]
    assert [line["custom_id"] for line in found] == names
    assert found[2]["error"]["errors"][0]["field"] == "label"
    at_once = client.post("/generate", json=row("x")["request"], headers={"accept": "image/png"})
    picture = client.get(found[0]["result"])
    assert picture.content == at_once.content
    assert picture.headers["content-type"] == found[0]["media_type"] == "image/png"
    assert client.get("/jobs").json()["jobs"] == []
    assert [each["id"] for each in client.get("/batches").json()["batches"]] == [batch["id"]]


def test_more_rows_than_are_queued_at_once(open_desk: Open) -> None:
    client, engine = open_desk(max_jobs=20)
    rows = lines(*(row(str(i), seed=i, format="latents") for i in range(150)))
    path = client.post("/batches", content=rows, headers=HEADERS).headers["location"]
    assert ended(client, path)["rows"] == {"total": 150, "ended": 150, "failed": 0}
    assert [line["custom_id"] for line in output(client, path)] == [str(i) for i in range(150)]
    assert sorted(request.seed for request in engine.requests) == list(range(150))


def test_a_process_that_ends_leaves_its_batch_to_the_next(open_desk: Open) -> None:
    first, engine = open_desk()
    rows = lines(*(row(str(i), seed=i) for i in range(12)))
    with engine.hold():
        path = first.post("/batches", content=rows, headers=HEADERS).headers["location"]
        while not engine.in_flight:
            time.sleep(0.01)
    while not first.get(path).json()["rows"]["ended"]:
        time.sleep(0.01)
    first.__exit__(None, None, None)
    second, other = open_desk()
    assert ended(second, path)["rows"] == {"total": 12, "ended": 12, "failed": 0}
    assert [line["status"] for line in output(second, path)] == [200] * 12
    done = {request.seed for request in engine.requests} | {r.seed for r in other.requests}
    assert done == set(range(12))


def test_cancelling(open_desk: Open, check_problem: Callable[..., Any]) -> None:
    client, engine = open_desk()
    rows = lines(*(row(str(i), seed=i) for i in range(8)))
    with engine.hold():
        path = client.post("/batches", content=rows, headers=HEADERS).headers["location"]
        while not engine.in_flight:
            time.sleep(0.01)
        assert check_problem(client.get(f"{path}/output"), 409)["code"] == "job_not_finished"
        assert client.delete(path).status_code in (200, 202)
        assert ended(client, path)["state"] == "cancelled"
        while engine.in_flight:
            time.sleep(0.01)
    assert check_problem(client.get(f"{path}/output"), 409)["code"] == "job_cancelled"
    assert client.delete(path).status_code == 200


def test_one_batch_for_one_key(open_desk: Open, check_problem: Callable[..., Any]) -> None:
    client, _ = open_desk()
    headers = {**HEADERS, "idempotency-key": "k"}
    made = [client.post("/batches", content=lines(row("a")), headers=headers) for _ in range(3)]
    assert len({answer.json()["id"] for answer in made}) == 1
    other = client.post("/batches", content=lines(row("b")), headers=headers)
    check_problem(other, 409, "Idempotency-Key")


@pytest.mark.parametrize(
    ("body", "headers", "status", "field"),
    [
        (b"", HEADERS, 422, "body"),
        (b"\n \n", HEADERS, 422, "body"),
        (b"{}\n" * 50_001, HEADERS, 422, "body"),
        (b"{}", {"content-type": "application/json"}, 415, "Content-Type"),
    ],
)
def test_what_is_no_batch(
    open_desk: Open,
    check_problem: Callable[..., Any],
    body: bytes,
    headers: dict[str, str],
    status: int,
    field: str,
) -> None:
    client, _ = open_desk()
    check_problem(client.post("/batches", content=body, headers=headers), status, field)
    for path in ("", "/output"):
        answer = client.get(f"/batches/batch_{'0' * 32}{path}")
        assert check_problem(answer, 404)["code"] == "unknown_batch"


def test_rows_are_charged_and_scoped_one_by_one(url: str, tmp_path: Path) -> None:
    """What a key may not do, its rows may not; a budget too small for a row is its error."""
    desk = Desk(url, tmp_path)
    secret, key = create("me", ["generate", "jobs"], budget=60_000)
    app = create_app(desk.jobs._settings, desk.engine, desk.metrics, KeyRing([key]), jobs=desk.jobs)
    headers = {"authorization": f"Bearer {secret}"}
    with TestClient(app, base_url="http://localhost", headers=headers) as client:
        rows = lines(
            row("fine"),
            row("urgent", priority="high"),
            {"custom_id": "decode", "kind": "decode", "request": {"latent": "AAAA"}},
            {**row("huge", n=64, steps={"base": 1000, "decode": 1000}), "accept": "*/*"},
        )
        path = client.post("/batches", content=rows, headers=HEADERS).headers["location"]
        ended(client, path)
        found = output(client, path)
        assert [line["status"] for line in found] == [200, 403, 422, 429]
        assert msgspec.json.encode(found[3]["error"]).find(b"row-steps") > 0
