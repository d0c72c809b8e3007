from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.http.jobs.test_routes import REQUEST, finished
from unified_latents.service.engine.fake import FakeEngine

JSONL = {"content-type": "application/jsonl"}


def test_a_bucket_that_does_not_answer_is_said_so(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]],
    check_problem: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To who brings an input, and to who wants an answer; what needs neither goes on."""
    client, _ = open_desk()
    path = client.post("/jobs", json={"kind": "generate", "request": REQUEST}).headers["location"]
    finished(client, path)
    jobs = "unified_latents.service.jobs"
    monkeypatch.setattr(f"{jobs}.objects._PATIENCE", timedelta(seconds=0.1))
    for name, value in {"ENDPOINT": "http://127.0.0.1:9", "ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    other, _ = open_desk(objects="s3://bucket", job_slots=0)
    for answer in (
        other.get(f"{path}/result"),
        other.post("/batches", content=b"{}", headers=JSONL),
    ):
        problem = check_problem(answer, 503)
        assert problem["code"] == "jobs_unavailable"
        assert "ObjectsDownError" in problem["detail"]
        assert answer.headers["retry-after"] == "1"
    assert other.get(path).json()["state"] == "succeeded"
    assert other.post("/jobs", json={"kind": "generate", "request": REQUEST}).status_code == 202
