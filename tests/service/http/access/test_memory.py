"""Results given again, around an engine in memory that remembers what it was asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.app import create_app
from unified_latents.service.keys import KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

Ok = Callable[[Any], Any]
SECRET, KEY = create("alice", ["generate", "metrics"], 24)
REQUEST = {"label": 0, "seed": 3, "n": 2}


@pytest.fixture
def caching(fake: FakeEngine, tmp_path: Path) -> Iterator[TestClient]:
    """A key with a budget for one request of this size a minute."""
    settings = Settings(cache=tmp_path / "cache")
    app = create_app(settings, fake, Metrics(), KeyRing([KEY]))
    with TestClient(
        app, base_url="http://localhost", headers={"authorization": f"Bearer {SECRET}"}
    ) as client:
        yield client


def test_an_equal_request_is_answered_without_the_engine_or_the_budget(
    caching: TestClient, fake: FakeEngine, ok: Ok
) -> None:
    first = ok(caching.post("/generate", json=REQUEST))
    for same in ({}, {"priority": "low"}, {"timeout": 60}, {"label": "circle"}):
        assert ok(caching.post("/generate", json={**REQUEST, **same})) == first
    assert len(fake.requests) == 1
    streamed = caching.post("/generate", json={**REQUEST, "stream": True})
    assert streamed.text.count("event: ") == streamed.text.count("event: result") == 1
    assert 'ul_result_cache_total{outcome="hit"} 5.0' in caching.get("/metrics").text
    webp = caching.post("/generate", json={**REQUEST, "format": "webp"})
    assert webp.json()["data"][0]["media_type"] == "image/webp"
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"n": 1}, {"label": 1}, {"steps": {"base": 2}}, {"format": "latents"}]
)
def test_another_request_is_another_result(
    caching: TestClient, fake: FakeEngine, other: dict[str, Any]
) -> None:
    caching.post("/generate", json=REQUEST)
    caching.post("/generate", json={**REQUEST, **other})
    assert 'outcome="hit"' not in caching.get("/metrics").text


def test_fast_results_are_not_kept(caching: TestClient, tmp_path: Path, ok: Ok) -> None:
    ok(caching.post("/generate", json={**REQUEST, "strict": False}))
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_breaks_is_not_noticed(
    caching: TestClient, fake: FakeEngine, tmp_path: Path, ok: Ok
) -> None:
    first = ok(caching.post("/generate", json=REQUEST))
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file now")
    again = caching.post("/generate", json=REQUEST)
    assert again.status_code == 429  # the budget is spent: it went to the engine's door
    assert 'ul_result_cache_total{outcome="off"} 1.0' in caching.get("/metrics").text
    assert len(fake.requests) == len(first["data"]) - 1
