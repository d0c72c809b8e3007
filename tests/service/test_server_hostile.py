"""A corpus of requests that mean harm, over real sockets: each refused, none remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.service.corpus import bodies, latents, pictures, routes
from tests.service.corpus.wire import CLOSED, Case, Reply, send

MAX_BODY = 4 * 2**20
GROWTH = 20 * 2**20
GOOD = {"label": "circle", "seed": 1}


@pytest.fixture
def server(start_server: Callable[..., Any], tiny: Path, tmp_path: Path) -> Any:
    """One of its own, so that nobody else moves its memory; it has answered every kind once."""
    started = start_server(
        "--model", f"tiny={tiny}", UL_HOME=str(tmp_path / "home"), UL_MAX_BODY=str(MAX_BODY)
    )
    started.wait_for(r"(ready): torch")
    assert started.http.post("/generate", json=GOOD).status_code == 200
    encoded = started.http.post(
        "/encode",
        content=pictures.saved("PNG"),
        headers={"content-type": "image/png", "accept": latents.LATENT},
    )
    decoded = started.http.post(
        "/decode", content=encoded.content, headers={"content-type": latents.LATENT}
    )
    assert (encoded.status_code, decoded.status_code) == (200, 200)
    return started


def corpus(space: str) -> dict[str, Case]:
    """Every request by name, for a model of this latent space."""
    everything: Iterator[tuple[str, Case]] = (
        each
        for part in (
            pictures.cases(),
            latents.cases(space),
            bodies.cases(MAX_BODY),
            routes.cases(),
        )
        for each in part
    )
    return dict(everything)


def test_every_hostile_request_is_refused_and_none_is_remembered(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    api = psutil.Process(server.process.pid)
    children = api.children()
    (model,) = server.http.get("/models").json()["models"]
    cases, before, peak = corpus(model["latent"]["space"]), api.memory_info().rss, 0
    replies: dict[str, Reply] = {}
    for name, case in cases.items():
        replies[name] = send((host, int(port)), case)
        peak = max(peak, api.memory_info().rss)
    assert {name: fault for name in cases if (fault := _fault(cases[name], replies[name]))} == {}
    counts = Counter(reply.status for reply in replies.values())
    assert sum(n for status, n in counts.items() if 400 <= status < 500) >= 140, counts
    assert counts[CLOSED] <= 8, counts
    assert peak - before < GROWTH
    assert server.http.post("/generate", json=GOOD).status_code == 200
    assert api.children() == children


def _fault(case: Case, reply: Reply) -> str:
    """What is wrong with an answer: its status, its form, or the field that it names."""
    if reply.status != case.status:
        return f"{reply.status}, not {case.status}: {reply.body[:200]!r}"
    if not case.field:
        return ""
    named = {error["field"] for error in reply.problem.get("errors", ())}
    return "" if named == {case.field} else f"{named}, not {case.field}"


def test_the_corpus_covers_every_kind() -> None:
    kinds = Counter(name.split()[0] for name in corpus("0" * 32))
    wanted = {"png": 20, "jpeg": 10, "webp": 8, "latent": 20, "form": 10, "json": 15, "chunked": 10}
    assert {kind: n for kind, n in wanted.items() if kinds[kind] < n} == {}
