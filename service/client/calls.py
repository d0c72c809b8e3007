"""Every call as a dialogue without I/O: what to ask, how long to pause, what the answer means.

A dialogue is a generator that yields an `Ask` or a `Pause` and is sent the `Answer`; `blocking` and
`aio` hold the two ends of it.
"""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from unified_latents.service.client.errors import JobError, ProblemError, UnreachableError
from unified_latents.service.client.results import Batch, Job, Latent, Picture
from unified_latents.service.client.retry import Retries

LATENT = "application/vnd.ul.latent+safetensors"
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_PATIENT = {"Prefer": "wait=600"}
"""A clip, too, is waited for."""
_POLL = 0.5
"""Seconds between two looks at a job where the service does not say."""

Operation = Literal["generate", "encode", "decode"]


@dataclass(frozen=True)
class Ask:
    """One HTTP request."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pause:
    """Seconds in which nothing is to be done."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back: header names in lower case; `status` is None where nothing came."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    fault: str = ""

    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)


T = TypeVar("T")
Work = TypeVar("Work", Job, Batch)
Dialogue = Generator[Ask | Pause, Answer, T]


def asked(ask: Ask, retries: Retries) -> Dialogue[Answer]:
    """The first answer that is not to be asked for again; an error where it is none."""
    for attempt in itertools.count(1):
        answer = yield ask
        if answer.status is not None and answer.status < 400:
            return answer
        wait = retries.wait(attempt, answer.status, answer.headers)
        if wait is None:
            raise problem(answer)
        yield Pause(wait)
    raise AssertionError("count() does not end")


def problem(answer: Answer) -> ProblemError | UnreachableError:
    """An answer that is an error, as one."""
    if answer.status is None:
        return UnreachableError(answer.fault)
    try:
        body = answer.json()
        said = body["code"], body["detail"], body.get("errors", ()), body.get("request_id", "")
    except (ValueError, KeyError, TypeError):
        said = "http_error", answer.content[:200].decode(errors="replace"), (), ""
    return ProblemError(answer.status, *said)


def generate(retries: Retries, label: str | int | None, **fields: Any) -> Dialogue[list[Picture]]:
    """POST /generate; a seed is drawn here, so that asking again asks for the same."""
    body = {"label": label, "seed": secrets.randbits(53), **wire(_said(fields))}
    answer = yield from asked(_post("/generate", body, _PATIENT), retries)
    return [Picture.of(item) for item in answer.json()["data"]]


def encode(retries: Retries, image: bytes, **query: Any) -> Dialogue[Latent]:
    """POST /encode with a picture's file."""
    headers = {"Content-Type": _media_type(image), "Accept": "application/json"}
    ask = Ask("POST", "/encode", image, headers, _query(query))
    answer = yield from asked(ask, retries)
    return Latent.of(answer.json())


def decode(retries: Retries, latent: Latent | bytes, **query: Any) -> Dialogue[list[Picture]]:
    """POST /decode with a latent's file, of one or several."""
    data = latent.data if isinstance(latent, Latent) else latent
    headers = {"Content-Type": LATENT, "Accept": "application/json"}
    seeded = {"seed": secrets.randbits(53), **_said(query)}
    answer = yield from asked(Ask("POST", "/decode", data, headers, _query(seeded)), retries)
    return [Picture.of(item) for item in answer.json()["data"]]


def models(retries: Retries) -> Dialogue[list[dict[str, Any]]]:
    """GET /models."""
    answer = yield from asked(Ask("GET", "/models"), retries)
    entries: list[dict[str, Any]] = answer.json()["models"]
    return entries


def submit(
    retries: Retries, kind: Operation, request: Mapping[str, Any], key: str | None, **options: Any
) -> Dialogue[Job]:
    """POST /jobs under an idempotency key, so that asking again never makes a second job."""
    body = {"kind": kind, "request": wire(request), **_said(options)}
    ask = _post("/jobs", body, {"Idempotency-Key": key or secrets.token_hex(16)})
    answer = yield from asked(ask, retries)
    return Job.of(answer.json())


def job(retries: Retries, identity: str) -> Dialogue[Job]:
    """GET /jobs/{id}."""
    answer = yield from asked(Ask("GET", f"/jobs/{identity}"), retries)
    return Job.of(answer.json())


def cancel(retries: Retries, identity: str) -> Dialogue[Job]:
    """DELETE /jobs/{id}."""
    answer = yield from asked(Ask("DELETE", f"/jobs/{identity}"), retries)
    return Job.of(answer.json())


def wait(
    retries: Retries,
    identity: str,
    timeout: float | None,
    on_progress: Callable[[Job], object] | None,
) -> Dialogue[Job]:
    """The job once it has succeeded, as `followed`."""
    return (yield from followed(retries, f"/jobs/{identity}", Job.of, timeout, on_progress))


def followed(
    retries: Retries,
    path: str,
    of: Callable[[dict[str, Any]], Work],
    timeout: float | None,
    on_progress: Callable[[Work], object] | None,
) -> Dialogue[Work]:
    """What is at `path`, once it has succeeded.

    JobError where it ended otherwise, TimeoutError where it has not in `timeout` seconds.
    """
    until = float("inf") if timeout is None else time.monotonic() + timeout
    before: Work | None = None
    while True:
        answer = yield from asked(Ask("GET", path), retries)
        now = of(answer.json())
        if on_progress is not None and now != before:
            on_progress(now)
        if now.state == "succeeded":
            return now
        if now.ended:
            raise JobError(now.id, now.state, *(now.reason or ("", "")))
        before, pause = now, _poll(answer.headers)
        if time.monotonic() + pause > until:
            raise TimeoutError(f"{now.id} is {now.state}, {now.counted}")
        yield Pause(pause)


def result(retries: Retries, identity: str) -> Dialogue[list[Picture] | Latent | bytes]:
    """GET /jobs/{id}/result, read as its call's answer would be; other files as they are."""
    answer = yield from asked(Ask("GET", f"/jobs/{identity}/result"), retries)
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return answer.content
    body = answer.json()
    if "data" in body:
        return [Picture.of(item) for item in body["data"]]
    return Latent.of(body)


def _post(path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Ask:
    return Ask("POST", path, json.dumps(body).encode(), {**_JSON, **(headers or {})})


def _media_type(image: bytes) -> str:
    """By its first bytes; ValueError where they are those of no picture that can be sent."""
    if image.startswith(b"\x89PNG"):
        return "image/png"
    if image.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("image must be the bytes of a PNG, JPEG or WebP file")


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def wire(request: Mapping[str, Any]) -> dict[str, Any]:
    """Files as base64."""
    return {name: _text(value) for name, value in request.items()}


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _query(fields: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in _said(fields).items()
    }


def _poll(headers: Mapping[str, str]) -> float:
    """Seconds until a look is worth it."""
    try:
        return max(0.01, float(headers["openai-poll-after-ms"]) / 1000)
    except (KeyError, ValueError):
        return _POLL
