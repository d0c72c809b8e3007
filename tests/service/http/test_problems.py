"""Errors that no route makes alone: limits, content types, the framework's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.negotiation import LATENT

CheckProblem = Callable[..., dict[str, Any]]
JSON = {"content-type": "application/json"}


def test_unknown_models_are_named(client: TestClient, check_problem: CheckProblem) -> None:
    for path in ("/encode?model=x", "/decode?model=x"):
        kind = "image/png" if "encode" in path else LATENT
        response = client.post(path, content=b"x", headers={"content-type": kind})
        assert check_problem(response, 404, "model")["limit"] == "fake, plain"
    response = client.post("/generate", json={"label": 0, "model": "x"})
    assert check_problem(response, 404, "model")["limit"] == "fake, plain"


def test_bodies_over_the_limit(client: TestClient, check_problem: CheckProblem) -> None:
    limit = 64 * 1024
    for path, kind in (
        ("/generate", "application/json"),
        ("/encode", "image/png"),
        ("/encode", "multipart/form-data; boundary=x"),
        ("/decode", LATENT),
    ):
        headers = {"content-type": kind}
        known = client.post(path, content=b"-" * (limit + 1), headers=headers)
        chunked = client.post(path, content=(b"--x\r\n" * 1000 for _ in range(20)), headers=headers)
        for response in (known, chunked):
            assert check_problem(response, 413, "body")["limit"] == limit


def test_the_frameworks_own_errors_are_problems_too(
    client: TestClient, check_problem: CheckProblem
) -> None:
    assert check_problem(client.get("/nowhere"), 404)["code"] == "not_found"
    wrong = client.get("/generate")
    assert check_problem(wrong, 405)["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "POST"


def test_request_ids_are_kept_if_sane(client: TestClient) -> None:
    assert (
        client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    )
    for strange in ("a b", "x" * 65, ""):
        given = client.get("/healthz", headers={"x-request-id": strange}).headers["x-request-id"]
        assert len(given) == 32


def test_metrics_count_by_route_template(client: TestClient) -> None:
    client.post("/generate", json={"label": 0})
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    assert 'ul_http_requests_total{code="200",route="/generate"} 1.0' in text
    assert 'ul_http_requests_total{code="404",route="other"} 1.0' in text
    assert "nowhere" not in text


def test_an_unforeseen_fault_is_a_bare_500(
    client: TestClient, fake: FakeEngine, check_problem: CheckProblem
) -> None:
    fake._models = None  # type: ignore[assignment]
    body = check_problem(client.post("/generate", json={"label": 0}), 500)
    assert body["code"] == "internal_error"
    assert "NoneType" not in json.dumps(body)


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "image/tiff", "application/x-www-form-urlencoded"][:]
)
@pytest.mark.parametrize("path", ["/generate", "/encode", "/decode"])
def test_wrong_content_types(
    client: TestClient, path: str, kind: str, check_problem: CheckProblem
) -> None:
    response = client.post(path, content=b"{}", headers={"content-type": kind})
    assert check_problem(response, 415, "Content-Type")["limit"]


def test_packed_bodies_are_refused(client: TestClient, check_problem: CheckProblem) -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    check_problem(client.post("/generate", content=b"x", headers=headers), 415, "Content-Encoding")
