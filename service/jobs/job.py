"""A job: what is asked, what Redis keeps of it, and what a client may be told about it.

The queue's own states are BullMQ's. What a client sees is derived from them and from the two marks
that any worker obeys before it starts: a cancellation, and a deadline that has passed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from unified_latents.service.jobs.calls import Call

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["generate", "encode", "decode", "batch"]

FINISHED: tuple[State, ...] = ("succeeded", "failed", "cancelled")
STARTS = 3
"""A job under which this many workers or engines failed is not tried again."""
PRIORITIES = (1, 10)
"""The most and the least urgent; 0 would mean none to BullMQ, and overtake them all for good."""
DEFAULT_PRIORITY = 5
STALLED = "job stalled more than allowable limit"
"""What BullMQ says of a job whose workers died once too often."""
_CODE = re.compile(r"([a-z_]{1,40}): (.*)", re.DOTALL)


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the queue holds of a job; a large input lies in the object store instead."""

    kind: Kind
    digest: str
    """Of the request as it came: an idempotency key stands for one request."""
    model: str
    call: Call | None = None
    input: str | None = None
    """The object that holds the call, where it does not fit here."""
    owner: str = ""
    deadline: float | None = None
    """Seconds from submission."""
    webhook: str | None = None
    """The URL that is told of the job's end."""
    rows: int = 0
    """Of a batch."""


class Progress(msgspec.Struct, frozen=True):
    """`done` of `steps` sample steps; both only ever grow over a job's attempts."""

    done: int = 0
    steps: int = 0
    stage: str | None = None
    eta: float | None = None
    failed: int = 0
    """Of a batch: rows that have failed."""


class Reason(msgspec.Struct, frozen=True):
    """Why a job ended without a result: a stable code, and words for a person."""

    code: str
    detail: str


class Outcome(msgspec.Struct, frozen=True):
    """The answer of a job that succeeded: where its bytes lie, and what HTTP says of them."""

    sha256: str
    size: int
    media_type: str
    headers: dict[str, str]


class WebhookState(msgspec.Struct, frozen=True):
    """How far the telling of a job's end has come."""

    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    status: int | None = None
    """Of the last answer."""
    trouble: str = ""


class Job(msgspec.Struct, frozen=True):
    """A job as it is now; times are seconds since 1970."""

    id: str
    spec: Spec
    state: State
    priority: int
    progress: Progress
    created: float
    since: float
    """When it was queued, by its client or last by an operator: its deadline counts from here."""
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    """Times that a worker began with it and did not hand it back whole."""
    cancelling: bool = False
    reason: Reason | None = None
    outcome: Outcome | None = None
    webhook: WebhookState | None = None

    @property
    def cursor(self) -> str:
        """Its place among its owner's jobs: the page that begins here has those before it."""
        return f"{round(self.created * 1000):014d}-{self.id}"

    @property
    def expires_at(self) -> float | None:
        """When its deadline passes."""
        return None if self.spec.deadline is None else self.since + self.spec.deadline


def read(identity: str, fields: Mapping[str, str], state: str, *, locked: bool, now: float) -> Job:
    """BullMQ's hash and state as a job; `locked` is whether a worker holds its lease."""
    spec = msgspec.json.decode(fields["data"], type=Spec)
    created = float(fields["timestamp"]) / 1000
    since = float(fields.get("ul:since", fields["timestamp"])) / 1000
    cancelling = "ul:cancel" in fields
    said = fields.get("failedReason", "") if state == "failed" else ""
    progress = progress_of(fields)
    failing = fields.get("defa", "")
    reason = _reason(said or failing, progress) if state == "failed" else None
    shown = _shown(state, reason)
    # the worker that only records the end of a job that others died of has not tried it
    buried = said.startswith(STALLED) or (state == "active" and bool(failing))
    free = state not in ("completed", "failed") and not (state == "active" and locked)
    if free and (cancelling or _late(spec, since, now)):
        reason = refusal(cancelled=cancelling)
        shown = _shown("failed", reason)
    outcome = fields.get("returnvalue") if shown == "succeeded" else None
    return Job(
        id=identity,
        spec=spec,
        state=shown,
        priority=int(fields.get("priority", "0")),
        progress=progress,
        created=created,
        since=since,
        started=_seconds(fields.get("processedOn")),
        finished=_seconds(fields.get("finishedOn")) if shown in FINISHED else None,
        attempts=failures(fields) + (shown == "running") - buried,
        cancelling=cancelling and shown == "running",
        reason=reason,
        outcome=msgspec.json.decode(outcome, type=Outcome) if outcome else None,
        webhook=_webhook(spec, fields),
    )


def _webhook(spec: Spec, fields: Mapping[str, str]) -> WebhookState | None:
    held = fields.get("ul:hook")
    if held is not None:
        return msgspec.json.decode(held, type=WebhookState)
    return WebhookState() if spec.webhook else None


def failures(fields: Mapping[str, str]) -> int:
    """Attempts that are over: with the worker's death, with an error, or with the job's end."""
    return int(fields.get("stc", "0")) + int(fields.get("atm", "0"))


def progress_of(fields: Mapping[str, str]) -> Progress:
    """The progress in a job's hash; BullMQ writes 0 where there is none yet."""
    held = json.loads(fields.get("progress", "0"))
    return msgspec.convert(held, Progress) if isinstance(held, dict) else Progress()


def refusal(*, cancelled: bool) -> Reason:
    """Why no worker starts a job that carries one of the two marks."""
    if cancelled:
        return Reason("cancelled", "cancelled by its client")
    return Reason("deadline_exceeded", "the deadline passed before the job was done")


def last_seen(progress: Progress) -> str:
    """Where a job was when its worker was last heard of."""
    if not progress.steps:
        return "before its first step"
    stage = f" of {progress.stage}" if progress.stage else ""
    return f"at step {progress.done} of {progress.steps}{stage}"


def _shown(state: str, reason: Reason | None) -> State:
    if state == "failed":
        return "cancelled" if reason is not None and reason.code == "cancelled" else "failed"
    known: dict[str, State] = {"completed": "succeeded", "active": "running"}
    return known.get(state, "queued")


def _reason(text: str, progress: Progress) -> Reason:
    if text.startswith(STALLED):
        detail = f"{STARTS} workers died under this job, the last {last_seen(progress)}"
        return Reason("workers_lost", detail)
    found = _CODE.fullmatch(text)
    return Reason(found[1], found[2]) if found else Reason("internal_error", "the worker failed")


def _late(spec: Spec, since: float, now: float) -> bool:
    return spec.deadline is not None and now > since + spec.deadline


def _seconds(text: Any) -> float | None:
    return float(text) / 1000 if text else None
