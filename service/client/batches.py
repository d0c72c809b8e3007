"""Batches as dialogues: many calls in one file, and what became of each, in order."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from unified_latents.service.client.calls import Ask, Dialogue, asked, followed, wire
from unified_latents.service.client.results import Batch, Row
from unified_latents.service.client.retry import Retries

JSONL = "application/jsonl"


def lines(rows: Iterable[Mapping[str, Any]] | bytes) -> bytes:
    """JSON lines of calls with their files as base64; bytes are JSON lines already."""
    if isinstance(rows, bytes):
        return rows
    return b"".join(
        json.dumps({**row, "request": wire(row["request"])}).encode() + b"\n" for row in rows
    )


def submit(
    retries: Retries, rows: Iterable[Mapping[str, Any]] | bytes, key: str | None
) -> Dialogue[Batch]:
    """POST /batches under an idempotency key, so that asking again never makes a second one."""
    headers = {"Content-Type": JSONL, "Idempotency-Key": key or secrets.token_hex(16)}
    answer = yield from asked(Ask("POST", "/batches", lines(rows), headers), retries)
    return Batch.of(answer.json())


def look(retries: Retries, identity: str) -> Dialogue[Batch]:
    """GET /batches/{id}."""
    answer = yield from asked(Ask("GET", f"/batches/{identity}"), retries)
    return Batch.of(answer.json())


def cancel(retries: Retries, identity: str) -> Dialogue[Batch]:
    """DELETE /batches/{id}."""
    answer = yield from asked(Ask("DELETE", f"/batches/{identity}"), retries)
    return Batch.of(answer.json())


def wait(
    retries: Retries,
    identity: str,
    timeout: float | None,
    on_progress: Callable[[Batch], object] | None,
) -> Dialogue[Batch]:
    """The batch once all its rows have ended, as `calls.followed`."""
    return (yield from followed(retries, f"/batches/{identity}", Batch.of, timeout, on_progress))


def output(retries: Retries, identity: str) -> Dialogue[list[Row]]:
    """GET /batches/{id}/output: one row for each of the input, in its order."""
    answer = yield from asked(Ask("GET", f"/batches/{identity}/output"), retries)
    return [Row.of(json.loads(line)) for line in answer.content.splitlines()]
