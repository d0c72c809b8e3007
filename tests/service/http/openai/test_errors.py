from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine

JSON = {"content-type": "application/json"}
PATH = "/v1/images/generations"


def _error(response: Any) -> Any:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{}", JSON, 400, "invalid_request"),
        (b"not json", JSON, 400, "invalid_request"),
        (b"-" * 70_000, JSON, 413, "body_too_large"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
    ],
)
def test_every_error_under_v1_has_its_shape(
    client: TestClient, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = client.post(PATH, content=content, headers=headers)
    assert response.status_code == status
    assert _error(response)["code"] == code


def test_the_frameworks_own_errors_have_it_too(client: TestClient, fake: FakeEngine) -> None:
    assert _error(client.get("/v1/nowhere"))["code"] == "not_found"
    assert _error(client.get(PATH))["code"] == "method_not_allowed"
    fake._models = None  # type: ignore[assignment]
    broken = client.post(PATH, json={"prompt": "circle"})
    assert broken.status_code == 500
    assert _error(broken)["type"] == "server_error"
    assert "NoneType" not in json.dumps(broken.json())


def test_what_was_too_much_is_named_with_its_limit(client: TestClient) -> None:
    error = _error(client.post(PATH, json={"prompt": "circle", "size": "9x9"}))
    assert error["param"] == "size"
    assert "8x8" in error["message"]
