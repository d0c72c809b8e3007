"""Batches as JSON: a row of the input, and how a batch is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from unified_latents.service.http.deferral.views import (
    AnyJob,
    DecodeJob,
    EncodeJob,
    GenerateJob,
    JobAnswer,
    JobPage,
    JobReason,
    answer_view,
    moment,
    optional_moment,
    reason_view,
)
from unified_latents.service.http.schemas import Body
from unified_latents.service.jobs.job import Job, State

MAX_ID = 128
MAX_ROWS = 50_000
_SCHEMAS: dict[str, type[GenerateJob | EncodeJob | DecodeJob]] = {
    "generate": GenerateJob,
    "encode": EncodeJob,
    "decode": DecodeJob,
}


class Row(Body):
    """One line: a call, and a name for it."""

    custom_id: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    kind: Literal["generate", "encode", "decode"]
    request: dict[str, Any]
    accept: str = Field("*/*", max_length=200)

    def job(self) -> AnyJob:
        """The job that it asks for; pydantic's `ValidationError` where it is none."""
        asked = {"kind": self.kind, "request": self.request, "accept": self.accept}
        return _SCHEMAS[self.kind].model_validate(asked)


class BatchPage(JobPage):
    """Which of your batches to show."""

    after: str | None = Field(None, pattern=r"^\d{14}-batch_[0-9a-f]{32}$")


class Counts(BaseModel):
    """Rows: all of them, those that have ended, and those of these that failed."""

    total: int
    ended: int
    failed: int


class BatchView(BaseModel):
    """A batch as it stands."""

    id: str
    state: State
    cancelling: bool
    reason: JobReason | None
    rows: Counts
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    output: JobAnswer | None
    links: dict[str, str]


class BatchList(BaseModel):
    """Batches, the newest first; `next` is the cursor of the page after, null on the last."""

    batches: list[BatchView]
    next: str | None


def batch_view(job: Job, answers: float) -> BatchView:
    """A batch for its client; its output is kept for `answers` seconds."""
    path = f"/batches/{job.id}"
    return BatchView(
        id=job.id,
        state=job.state,
        cancelling=job.cancelling,
        reason=reason_view(job.reason),
        rows=Counts(total=job.spec.rows, ended=job.progress.done, failed=job.progress.failed),
        created_at=moment(job.created),
        started_at=optional_moment(job.started),
        finished_at=optional_moment(job.finished),
        output=answer_view(job, answers),
        links={"self": path, "output": f"{path}/output"},
    )
