"""How these tests ask, and what they expect of every error."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image


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
