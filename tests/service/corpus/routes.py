"""Hostile requests to replay, streams, OpenAI's routes and the operator's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.service.corpus.wire import Case, request

JSON = "application/json"
_IMAGES = "/v1/images/generations"
_RECEIPT: dict[str, Any] = {
    "operation": "generate", "model": "tiny", "digest": "0" * 64, "kernel_set": "x",
    "numerics": "x", "codec": "x", "format": "png", "sampler": {"base": "ddim"},
    "steps": {"base": 4}, "seed": 1, "sample": 0, "strict": True, "sha256": "0" * 64,
}  # fmt: skip


def cases() -> Iterator[tuple[str, Case]]:
    """Name and request of each."""
    yield from _replays()
    yield from _streams()
    yield from _images()
    yield from _reloads()


def _replays() -> Iterator[tuple[str, Case]]:
    bodies: dict[str, tuple[Any, int, str]] = {
        "without a receipt": ({}, 422, "receipt"),
        "of another model": ({"receipt": _RECEIPT}, 409, "receipt.digest"),
        "of 10^9 steps": ({"receipt": {**_RECEIPT, "steps": {"base": 10**9}}}, 422,
                          "receipt.steps.base"),
        "of a stage of its own": ({"receipt": {**_RECEIPT, "steps": {"../x": 1}}}, 422,
                                  "(unknown)"),
        "of a digest of 10^6 letters": ({"receipt": {**_RECEIPT, "digest": "0" * 10**6}}, 422,
                                        "receipt.digest"),
        "of sample 2^63": ({"receipt": {**_RECEIPT, "sample": 2**63}}, 422, "receipt.sample"),
        "of a thousand receipts": ({"receipt": [_RECEIPT] * 1000}, 413, "body"),
        "with a receipt of its own": ({"receipt": {**_RECEIPT, "extra": 1}}, 422,
                                      "receipt.extra"),
    }  # fmt: skip
    for name, (body, status, field) in bodies.items():
        text = json.dumps(body).encode()
        yield f"replay {name}", request("/replay", JSON, text, status, field)
    deep = b'{"receipt":' * 50 + b"["
    yield "replay that is cut", request("/replay", JSON, deep, 422, "body")
    bomb = base64.b64encode(bytes(2**20)).decode()
    body = json.dumps({"receipt": {**_RECEIPT, "operation": "encode"}, "original": bomb}).encode()
    yield "replay of a megabyte of zeros", request("/replay", JSON, body, 409, "receipt.digest")


def _streams() -> Iterator[tuple[str, Case]]:
    base = '{"label": 0, "stream": true, '
    bodies = {
        "previews": f'{base}"previews": 1000000}}',
        "timeout": f'{base}"timeout": NaN}}',
        "priority": f'{base}"priority": "root"}}',
        "stream": '{"label": 0, "stream": "yes"}',
    }
    for field, text in bodies.items():
        yield f"stream with {field}", request("/generate", JSON, text.encode(), 422, field)
    yield (
        "stream that ends before it begins",
        request("/generate", JSON, f'{base}"timeout": -1}}'.encode(), 422, "timeout"),
    )


def _images() -> Iterator[tuple[str, Case]]:
    bodies = {
        "no label": '{"prompt": "<script>"}',
        "10^9 pictures": '{"prompt": "circle", "n": 1000000000}',
        "a size of 10^9": '{"prompt": "circle", "size": "1000000000x1"}',
        "a URL": '{"prompt": "circle", "response_format": "url"}',
        "a field of its own": '{"prompt": "circle", "image": "file:///etc/passwd"}',
        "ten thousand brackets": "[" * 10_000,
    }
    for name, text in bodies.items():
        yield f"openai {name}", request(_IMAGES, JSON, text.encode(), 400)
    yield "openai long", request(_IMAGES, JSON, b'{"prompt": "' + b"x" * 2**20, 413)


def _reloads() -> Iterator[tuple[str, Case]]:
    for path in ("/etc", "../../etc", "\x00", "x" * 1024):
        body = json.dumps({"path": path}).encode()
        yield (
            f"reload {path[:8]!r}",
            request("/admin/models/tiny/reload", JSON, body, 422, "path"),
        )
