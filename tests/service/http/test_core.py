"""What runs around every route."""

from __future__ import annotations

from typing import Any

import fastapi.dependencies.utils
import fastapi.routing
import pytest
from starlette.testclient import TestClient


def test_no_request_waits_for_a_thread(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's turn comes late on a busy machine, and costs more than a key's check."""

    async def threaded(function: Any, *_: Any, **__: Any) -> None:
        pytest.fail(f"{function} would run in a thread")

    for module in (fastapi.dependencies.utils, fastapi.routing):
        monkeypatch.setattr(module, "run_in_threadpool", threaded)
    assert client.get("/healthz").status_code == 200
    assert client.get("/models").status_code == 200
    assert client.post("/generate", json={"label": 0, "n": 0}).status_code == 422
