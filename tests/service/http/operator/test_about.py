"""What the service says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import Canary

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]


def test_models_are_described(client: TestClient, ok: Ok) -> None:
    first, second = ok(client.get("/models"))["models"]
    card = fake_card()
    assert (first["name"], first["kind"], second["kind"]) == ("fake", "generator", "autoencoder")
    assert first["labels"] == list(card.labels)
    assert first["size"] == [8, 8]
    assert first["latent"] == {"shape": [4, 2, 2], "space": card.latent_space, "lambda_0": 5.0}
    assert first["defaults"]["steps"] == {"base": 4, "decode": 4}
    assert first["data"] == {"name": "fake", "source": "none", "licence": "CC0-1.0"}
    assert (first["kernel_set"], first["kernel_fallback"]) == ("reference", None)
    assert first["cuda_graphs"] is False


def test_a_gpu_without_its_kernels_is_shown(client: TestClient, fake: FakeEngine, ok: Ok) -> None:
    assert fake.ready is not None
    fake.ready = msgspec.structs.replace(
        fake.ready, device="cuda", kernel_fallback="forced", graphs=True
    )
    (first, *_) = ok(client.get("/models"))["models"]
    assert (first["kernel_fallback"], first["cuda_graphs"]) == ("forced", True)


def test_health_follows_the_engine(
    client: TestClient, fake: FakeEngine, ok: Ok, check_problem: CheckProblem
) -> None:
    assert ok(client.get("/healthz"))["status"] == "alive"
    assert ok(client.get("/readyz"))["models"] == {"fake": "ok", "plain": "ok"}
    fake._state = "restarting"
    assert client.get("/healthz").status_code == 200
    soon = client.get("/readyz")
    check_problem(soon, 503)
    assert (soon.headers["retry-after"], soon.headers["x-should-retry"]) == ("1", "true")
    fake._state = "failed"
    never = client.get("/healthz")
    check_problem(never, 503)
    assert never.headers["x-should-retry"] == "false"
    response = client.post("/generate", json={"label": 0})
    assert check_problem(response, 503)["code"] == "not_ready"
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers


def test_a_failed_canary_is_not_ready(
    client: TestClient, fake: FakeEngine, check_problem: CheckProblem
) -> None:

    assert fake.ready is not None
    bad = msgspec.structs.replace(fake_card(), canary=Canary(False, 1.0, 1.0))
    fake.ready = msgspec.structs.replace(fake.ready, models=(bad,))
    assert check_problem(client.get("/readyz"), 503)["code"] == "canary_failed"


def test_the_front_page_leads_to_the_documentation(client: TestClient) -> None:
    assert client.get("/", follow_redirects=False).headers["location"] == "/docs"
    assert "swagger" in client.get("/docs").text.lower()
