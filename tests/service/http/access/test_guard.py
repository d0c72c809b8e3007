"""Every route of the application × no key, a wrong key, a key for something else, the right key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.access.guard import ANY, OPEN, Guard, anonymous, needed, needs
from unified_latents.service.http.app import create_app
from unified_latents.service.http.problems import Problem
from unified_latents.service.keys import SCOPES, KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

DOCUMENTATION = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
KEYS = {scope: create(scope, [scope]) for scope in SCOPES}
APP = create_app(
    Settings(), FakeEngine(fake_card()), Metrics(), KeyRing(key for _, key in KEYS.values())
)
CONTEXTS = [context.original_route for context in iter_route_contexts(APP.routes)]
ROUTES = [route for route in CONTEXTS if isinstance(route, APIRoute)]
CALLS = [(route, method) for route in ROUTES for method in sorted(route.methods or ())]
GUARDED = [(route, method) for route, method in CALLS if needed(route) != OPEN]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(APP, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def _ask(client: TestClient, route: APIRoute, method: str, authorization: str | None) -> Any:
    headers = {"authorization": authorization} if authorization is not None else {}
    path = route.path_format.replace("{", "x").replace("}", "")
    return client.request(method, path, headers=headers, follow_redirects=False)


def _fault(response: Any) -> Any:
    """The problem, or what stands for it below /v1."""
    body = response.json()
    return body.get("error", body)


def _names(calls: list[tuple[APIRoute, str]]) -> list[str]:
    return [f"{method} {route.path}" for route, method in calls]


def test_there_are_routes_and_every_one_says_what_it_needs() -> None:
    assert {route.path for route in ROUTES} >= {"/generate", "/replay", "/metrics", "/healthz"}
    assert [route.path for route in ROUTES if needed(route) is None] == []
    others = {getattr(route, "path", "") for route in CONTEXTS} - {r.path for r in ROUTES}
    assert others == DOCUMENTATION


def test_only_these_are_open() -> None:
    opened = {route.path for route, _ in CALLS} - {route.path for route, _ in GUARDED}
    assert opened == {"/healthz", "/readyz", "/"}


@pytest.mark.parametrize(("route", "method"), GUARDED, ids=_names(GUARDED))
def test_a_guarded_route(client: TestClient, route: APIRoute, method: str) -> None:
    scope = needed(route)
    for authorization in (None, "", "Bearer", "Bearer wrong", f"Basic {KEYS['generate'][0]}"):
        refused = _ask(client, route, method, authorization)
        assert refused.status_code == 401
        assert _fault(refused)["code"] in ("unauthorized", "invalid_api_key")
        assert refused.headers["www-authenticate"].startswith("Bearer realm=")
    for other, (secret, _) in KEYS.items():
        answer = _ask(client, route, method, f"Bearer {secret}")
        if scope in (ANY, other):
            assert answer.status_code not in (401, 403), answer.text
        else:
            assert (answer.status_code, _fault(answer)["code"]) == (403, "insufficient_scope")
            assert str(scope) in answer.text
            assert f'scope="{scope}"' in answer.headers["www-authenticate"]


def test_open_routes_ask_nobody(client: TestClient) -> None:
    for route, method in CALLS:
        if needed(route) == OPEN:
            for authorization in (None, "Bearer wrong"):
                assert _ask(client, route, method, authorization).status_code in (200, 307)


def test_a_route_that_says_nothing_is_nobodys(fake: FakeEngine) -> None:
    app = create_app(Settings(), fake, Metrics())

    @app.get("/forgotten")
    async def forgotten() -> str:
        return "secret"

    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/forgotten").status_code == 403


def test_without_keys_only_the_machines_own_user_is_the_operator() -> None:
    assert anonymous(Settings(host="127.0.0.1")).scopes == set(SCOPES)
    stranger = anonymous(Settings(host="0.0.0.0", allow_anonymous=True))
    assert set(SCOPES) - stranger.scopes == {"admin", "high"}
    guard = Guard(KeyRing(), Settings(host="0.0.0.0", allow_anonymous=True))
    assert guard.check("Bearer whatever", "generate").name == "anonymous"
    with pytest.raises(Problem, match="admin"):
        guard.check(None, "admin")


def test_scopes_that_nobody_can_have_are_mistakes() -> None:
    with pytest.raises(ValueError, match="no such scope"):
        needs("generat")
