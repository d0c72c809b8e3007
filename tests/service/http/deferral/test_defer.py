from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.jobs.conftest import Desk
from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.app import create_app
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.keys import KeyRing, create

REQUEST = {"label": "circle", "seed": 4}


def test_a_full_queue_takes_no_more(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], check_problem: Callable[..., Any]
) -> None:
    client, _ = open_desk(max_jobs=2, job_slots=0)
    bodies = [{"kind": "generate", "request": {"label": "circle", "seed": s}} for s in range(3)]
    keys = [{"idempotency-key": str(seed)} for seed in range(3)]
    for body, key in zip(bodies[:2], keys[:2], strict=True):
        assert client.post("/jobs", json=body, headers=key).status_code == 202
    refused = client.post("/jobs", json=bodies[2], headers=keys[2])
    assert check_problem(refused, 503, "queue")["limit"] == 2
    assert {"retry-after", "retry-after-ms", "x-should-retry"} <= set(refused.headers)
    assert len(client.get("/jobs").json()["jobs"]) == 2
    known = client.post("/jobs", json=bodies[0], headers=keys[0])
    assert known.status_code == 202
    assert client.delete(known.headers["location"]).status_code == 200


def test_keys_for_jobs(
    url: str, tmp_path: Path, check_problem: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A priority needs its scope; what the store did not take costs nothing."""
    desk = Desk(url, tmp_path, job_slots=0)
    secret, key = create("me", ["generate", "jobs"], budget=10)
    app = create_app(desk.jobs._settings, desk.engine, desk.metrics, KeyRing([key]), jobs=desk.jobs)
    headers = {"authorization": f"Bearer {secret}"}
    with TestClient(app, headers=headers) as client:
        urgent = {"kind": "generate", "request": {**REQUEST, "priority": "high"}}
        assert check_problem(client.post("/jobs", json=urgent), 403)["code"] == "insufficient_scope"
        one = {"label": "circle", "steps": {"base": 2, "decode": 2}, "guidance": 1.0}
        body = {"kind": "generate", "request": one}
        with monkeypatch.context() as outage:
            outage.setattr(desk.jobs.queue, "submit", _down)
            for _ in range(5):
                assert check_problem(client.post("/jobs", json=body), 503)["code"]
        assert client.post("/jobs", json=body).status_code == 202
        assert client.post("/jobs", json=body).status_code == 202
        assert client.post("/jobs", json=body).status_code == 429


def test_clients_that_ask_for_one_job_at_once_pay_for_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them finds it there when it looks, and all but one find it when they queue it."""
    desk = Desk(url, tmp_path, job_slots=0)
    secret, key = create("me", ["generate", "jobs"], budget=10)
    app = create_app(desk.jobs._settings, desk.engine, desk.metrics, KeyRing([key]), jobs=desk.jobs)
    headers = {"authorization": f"Bearer {secret}", "idempotency-key": "one"}
    one = {"label": "circle", "steps": {"base": 2, "decode": 2}, "guidance": 1.0}
    monkeypatch.setattr(desk.jobs.queue, "knows", _unknown)
    with TestClient(app, headers=headers) as client:
        body = {"kind": "generate", "request": one}
        answers = [client.post("/jobs", json=body) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202] * 5
        assert len({answer.json()["id"] for answer in answers}) == 1


async def _unknown(*_: object) -> bool:
    return False


async def _down(*_: object, **__: object) -> None:
    raise StoreDownError("gone")
