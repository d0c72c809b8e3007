"""The OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

from unified_latents.service.http.negotiation import LATENT

Ok = Callable[[Any], Any]


def test_the_document_describes_bodies_and_errors(client: TestClient, ok: Ok) -> None:
    api = ok(client.get("/openapi.json"))
    generate = api["paths"]["/generate"]["post"]
    reference = generate["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = api["components"]["schemas"][reference.rsplit("/", 1)[1]]
    assert schema["required"] == ["label"]
    assert schema["additionalProperties"] is False
    assert set(generate["responses"]["200"]["content"]) >= {"application/json", "image/png", LATENT}
    for path, method in (("/generate", "post"), ("/encode", "post"), ("/decode", "post")):
        for code in ("415", "422"):
            content = api["paths"][path][method]["responses"][code]["content"]
            assert list(content) == ["application/problem+json"]
    text = json.dumps(api)
    assert "HTTPValidationError" not in text
    names = {reference.rsplit("/", 1)[1] for reference in _references(api)}
    assert names <= set(api["components"]["schemas"])


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _references(value)]
    return [ref for item in node for ref in _references(item)] if isinstance(node, list) else []
