"""Jobs as JSON: how one is asked for, and how one is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from unified_latents.service.http.schemas import Body, DecodeQuery, EncodeQuery, GenerateRequest
from unified_latents.service.jobs import job as jobs
from unified_latents.service.jobs.job import DEFAULT_PRIORITY, PRIORITIES, Job, Kind, State

MAX_DEADLINE = 7 * 86_400


class EncodeJobInput(EncodeQuery):
    """What POST /encode takes, its picture as base64."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    image: str = Field(description="Base64 of a PNG, JPEG or WebP file.")


class DecodeJobInput(DecodeQuery):
    """What POST /decode takes, its latents as base64."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    latent: str = Field(description="Base64 of a safetensors file.")


class JobOptions(Body):
    """How a job is carried out."""

    priority: int = Field(
        DEFAULT_PRIORITY, ge=PRIORITIES[0], le=PRIORITIES[1], description="1 goes first."
    )
    deadline: float | None = Field(
        None, gt=0, le=MAX_DEADLINE, description="Seconds from now; a job that is late fails."
    )
    accept: str = Field(
        "*/*", max_length=200, description="The form of the answer, as in an Accept header."
    )
    webhook: str | None = Field(
        None,
        description="An https URL that is told of the job's end, signed as Standard Webhooks say.",
    )


class GenerateJob(JobOptions):
    """POST /generate, later."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "generate", "request": {"label": "sneaker", "seed": 1}}]
        }
    )

    kind: Literal["generate"]
    request: GenerateRequest


class EncodeJob(JobOptions):
    """POST /encode, later."""

    kind: Literal["encode"]
    request: EncodeJobInput


class DecodeJob(JobOptions):
    """POST /decode, later."""

    kind: Literal["decode"]
    request: DecodeJobInput


AnyJob = GenerateJob | EncodeJob | DecodeJob


class JobRequest(RootModel[Annotated[AnyJob, Field(discriminator="kind")]]):
    """A call, and how it is to be carried out."""


class JobProgress(BaseModel):
    """Steps of samples, over all stages; they only grow."""

    done: int
    steps: int
    stage: str | None
    eta: float | None


class JobReason(BaseModel):
    """Why there is no answer."""

    code: str
    detail: str


class JobAnswer(BaseModel):
    """What /result gives, until `expires_at`."""

    media_type: str
    size: int
    sha256: str
    expires_at: datetime


class JobWebhook(BaseModel):
    """How far the telling of the job's end has come; `status` is of the last answer."""

    state: Literal["pending", "delivered", "failed"]
    attempts: int
    status: int | None
    trouble: str


class JobView(BaseModel):
    """A job as it stands."""

    id: str
    kind: Kind
    model: str
    state: State
    cancelling: bool
    """Asked to stop; its worker has yet to do so."""
    reason: JobReason | None
    priority: int
    progress: JobProgress
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    answer: JobAnswer | None
    webhook: JobWebhook | None
    links: dict[str, str]


class JobPage(BaseModel):
    """Which of your jobs to show."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200)
    after: str | None = Field(None, pattern=r"^\d{14}-(job|video)_[0-9a-f]{32}$")


class JobList(BaseModel):
    """Jobs, the newest first; `next` is the cursor of the page after, null on the last."""

    jobs: list[JobView]
    next: str | None


def view(job: Job, answers: float) -> JobView:
    """A job for its client; its answer is kept for `answers` seconds."""
    path = f"/jobs/{job.id}"
    return JobView(
        id=job.id,
        kind=job.spec.kind,
        model=job.spec.model,
        state=job.state,
        cancelling=job.cancelling,
        reason=reason_view(job.reason),
        priority=job.priority,
        progress=JobProgress(
            done=job.progress.done,
            steps=job.progress.steps,
            stage=job.progress.stage,
            eta=None if job.state in jobs.FINISHED else job.progress.eta,
        ),
        attempts=job.attempts,
        created_at=moment(job.created),
        started_at=optional_moment(job.started),
        finished_at=optional_moment(job.finished),
        deadline_at=optional_moment(job.expires_at),
        answer=answer_view(job, answers),
        webhook=JobWebhook.model_validate(job.webhook, from_attributes=True)
        if job.webhook
        else None,
        links={"self": path, "events": f"{path}/events", "result": f"{path}/result"},
    )


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as a time."""
    return datetime.fromtimestamp(seconds, UTC)


def optional_moment(seconds: float | None) -> datetime | None:
    """The same of seconds that may not be known."""
    return None if seconds is None else moment(seconds)


def reason_view(reason: jobs.Reason | None) -> JobReason | None:
    """Why there is no answer, where there is a reason."""
    return None if reason is None else JobReason(code=reason.code, detail=reason.detail)


def answer_view(job: Job, answers: float) -> JobAnswer | None:
    """What /result gives, once there is something."""
    if job.outcome is None or job.finished is None:
        return None
    return JobAnswer(
        media_type=job.outcome.media_type,
        size=job.outcome.size,
        sha256=job.outcome.sha256,
        expires_at=moment(job.finished + answers),
    )
