"""What the service answers, as values."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Picture:
    """A file and all that its bytes depend on."""

    data: bytes
    media_type: str
    seed: int
    receipt: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self.data)

    @classmethod
    def of(cls, item: dict[str, Any]) -> Self:
        """From one item of an answer."""
        data = base64.b64decode(item["b64"])
        return cls(data, item["media_type"], item["seed"], item["receipt"])


@dataclass(frozen=True)
class Bitrate:
    """The bound for one image, and the standard error of its estimate in nats."""

    nats: float
    bits: float
    bits_per_pixel: float
    bits_per_dim: float
    std_error: float | None


@dataclass(frozen=True)
class Latent:
    """A safetensors file with one latent of shape [1, c, …], and the space that it lives in."""

    data: bytes
    kind: str
    shape: tuple[int, ...]
    space: str
    receipt: dict[str, Any]
    bitrate: Bitrate | None

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self.data)

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """From the answer of /encode."""
        rate = body.get("bitrate")
        names = Bitrate.__dataclass_fields__
        return cls(
            data=base64.b64decode(body["latent"]),
            kind=body["kind"],
            shape=tuple(body["shape"]),
            space=body["latent_space"],
            receipt=body["receipt"],
            bitrate=Bitrate(**{name: rate[name] for name in names}) if rate else None,
        )


@dataclass(frozen=True)
class Job:
    """A job as it stood when the service was asked."""

    id: str
    kind: str
    state: State
    done: int
    """Sample steps done; never less than before."""
    steps: int
    stage: str | None
    eta: float | None
    attempts: int
    created: datetime
    reason: tuple[str, str] | None
    """Code and detail of a job that has no answer."""
    media_type: str | None
    """Of its answer; None while there is none."""

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state in _ENDED

    @property
    def counted(self) -> str:
        """How far it is, in words."""
        return f"{self.done} of {self.steps} steps"

    @classmethod
    def of(cls, view: dict[str, Any]) -> Self:
        """From the answer of /jobs/{id}."""
        progress, reason, answer = view["progress"], view["reason"], view["answer"]
        return cls(
            id=view["id"],
            kind=view["kind"],
            state=view["state"],
            done=progress["done"],
            steps=progress["steps"],
            stage=progress.get("stage"),
            eta=progress.get("eta"),
            attempts=view["attempts"],
            created=datetime.fromisoformat(view["created_at"]),
            reason=_reason(reason),
            media_type=answer["media_type"] if answer else None,
        )


@dataclass(frozen=True)
class Batch:
    """A batch as it stood when the service was asked."""

    id: str
    state: State
    rows: int
    done: int
    """Rows that have ended; never less than before."""
    failed: int
    """Of these."""
    reason: tuple[str, str] | None

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state in _ENDED

    @property
    def counted(self) -> str:
        """How far it is, in words."""
        return f"{self.done} of {self.rows} rows"

    @classmethod
    def of(cls, view: dict[str, Any]) -> Self:
        """From the answer of /batches/{id}."""
        rows, reason = view["rows"], view["reason"]
        return cls(
            id=view["id"],
            state=view["state"],
            rows=rows["total"],
            done=rows["ended"],
            failed=rows["failed"],
            reason=_reason(reason),
        )


@dataclass(frozen=True)
class Row:
    """What became of a call of a batch: `job` has its answer, or `error` says why not."""

    index: int
    custom_id: str | None
    status: int
    job: str | None
    media_type: str | None
    sha256: str | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, line: dict[str, Any]) -> Self:
        """From a line of the output."""
        return cls(**{name: line.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Notice:
    """A webhook: a job that has ended."""

    delivery: str
    """The same when it comes again."""
    job: str
    kind: str
    model: str
    state: State
    reason: tuple[str, str] | None

    @classmethod
    def of(cls, delivery: str, body: dict[str, Any]) -> Self:
        """From the body of a webhook."""
        data, reason = body["data"], body["data"]["reason"]
        return cls(
            delivery=delivery,
            job=data["id"],
            kind=data["kind"],
            model=data["model"],
            state=data["state"],
            reason=_reason(reason),
        )


@dataclass(frozen=True)
class Event:
    """One server-sent event of a stream."""

    kind: str
    data: dict[str, Any]
    id: str = ""


def _reason(said: dict[str, str] | None) -> tuple[str, str] | None:
    return (said["code"], said["detail"]) if said else None
