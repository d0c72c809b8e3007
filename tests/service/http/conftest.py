"""How these tests ask, and what they expect of every error."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis
from starlette.testclient import TestClient

from tests.service.jobs.conftest import Desk, start_store
from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.app import create_app
from unified_latents.service.jobs.server import find_server


@pytest.fixture
def ok() -> Callable[[Any], Any]:
    """The JSON of an answer that must be a 200."""

    def read(response: Any) -> Any:
        assert response.status_code == 200, response.text
        return response.json()

    return read


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """A gray PNG of a size."""

    def draw(height: int = 8, width: int = 8) -> bytes:
        stream = io.BytesIO()
        Image.new("L", (width, height), 77).save(stream, "PNG")
        return stream.getvalue()

    return draw


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    process = start_store(folder, find_server())
    yield f"unix://{folder / 's'}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def url(server: str) -> str:
    """A store that holds nothing."""
    with Redis.from_url(server) as client:
        client.flushall()
    return server


@pytest.fixture
def open_desk(url: str, tmp_path: Path) -> Iterator[Callable[..., tuple[TestClient, FakeEngine]]]:
    """Applications with jobs on one store."""
    opened: list[TestClient] = []

    def make(**said: Any) -> tuple[TestClient, FakeEngine]:
        desk = Desk(said.pop("redis_url", url), tmp_path, **said)
        app = create_app(desk.jobs._settings, desk.engine, desk.metrics, jobs=desk.jobs)
        opened.append(TestClient(app, base_url="http://localhost", raise_server_exceptions=False))
        return opened[-1].__enter__(), desk.engine

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def check_problem() -> Callable[..., dict[str, Any]]:
    """Every error has the one form; gives the error of a field, or the whole."""
    return _check_problem


def _check_problem(response: Any, status: int, field: str | None = None) -> dict[str, Any]:
    """Every error has the one form; returns one field's error, or the whole."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "title", "status", "code", "detail", "errors", "request_id"}
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    if field is None:
        return body
    found = [error for error in body["errors"] if error["field"] == field]
    assert found, body
    return dict(found[0])
