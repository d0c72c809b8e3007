"""Without keys, the service on this machine answers to this machine's names only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.http.app import create_app
from unified_latents.service.keys import KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

Check = Callable[..., Mapping[str, Any]]
NEW = {"label": 0, "seed": 1}


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.8.0.1:1", "[::1]", "[::1]:8000"]
)
def test_this_machines_names(client: TestClient, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert client.post("/generate", json=NEW, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io:8000",
        "10.0.0.1",
        "",
        "[::1",
        "x@",
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/healthz", "/nowhere"])
def test_other_names(client: TestClient, check_problem: Check, host: str, path: str) -> None:
    answer = client.get(path, headers={"host": host})
    assert check_problem(answer, 421)["code"] == "wrong_host"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://10.0.0.1", "file://"])
def test_a_page_from_elsewhere_cannot_start_work(
    client: TestClient, fake: FakeEngine, check_problem: Check, origin: str
) -> None:
    answer = client.post("/generate", json=NEW, headers={"origin": origin})
    assert check_problem(answer, 403)["code"] == "wrong_origin"
    assert not fake.requests


def test_a_proxys_names_are_named(fake: FakeEngine) -> None:
    settings = Settings.model_validate({"hosts": "Latents.example, other.example"})
    with TestClient(create_app(settings, fake, Metrics()), base_url="http://localhost") as client:
        for host, status in (("latents.example", 200), ("other.example", 200), ("third", 421)):
            assert client.get("/healthz", headers={"host": host}).status_code == status


def test_keys_or_another_address_say_who_may_call(fake: FakeEngine) -> None:
    ring = KeyRing([create("me", ["generate"])[1]])
    everywhere = Settings(host="0.0.0.0", allow_anonymous=True)
    for app in (
        create_app(Settings(), fake, Metrics(), ring),
        create_app(everywhere, fake, Metrics()),
    ):
        with TestClient(app, base_url="http://any.example") as client:
            assert client.get("/healthz").status_code == 200
