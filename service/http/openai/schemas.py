"""Bodies as OpenAI's API has them, of its image, video and model routes.

What has no meaning here is accepted only where it asks for nothing (`quality: auto`) or names the
caller (`user`, `safety_identifier`), and is refused by name otherwise; `seed` is an extension.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unified_latents.service.http.schemas import Body, ModelName, Receipt, Seed

MAX_IMAGES = 10
MAX_PARTIAL = 3

OutputFormat = Literal["png", "webp", "jpeg"]


class ImageRequest(Body):
    """POST /v1/images/generations; the prompt is the name of a label."""

    prompt: str = Field(min_length=1, max_length=200, description="A label's name, in any case.")
    model: ModelName | None = None
    n: int | None = Field(1, ge=1, le=MAX_IMAGES)
    size: str | None = Field("auto", max_length=16, description="`auto`, or the model's WxH.")
    response_format: Literal["b64_json"] | None = None
    output_format: OutputFormat | None = None
    stream: bool | None = False
    partial_images: int | None = Field(0, ge=0, le=MAX_PARTIAL)
    seed: Seed | None = Field(None, description="An extension: equal seeds give equal pictures.")
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)


class Usage(BaseModel):
    """Tokens, of which there are none here."""

    input_tokens: int = 0
    input_tokens_details: dict[str, int] = Field(
        default_factory=lambda: {"image_tokens": 0, "text_tokens": 0}
    )
    output_tokens: int = 0
    total_tokens: int = 0


class ImageDatum(BaseModel):
    """One picture; `seed` and `receipt` are extensions."""

    b64_json: str
    seed: int
    receipt: Receipt


class ImageList(BaseModel):
    """The answer without a stream."""

    created: int
    data: list[ImageDatum]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str
    usage: Usage = Field(default_factory=Usage)


class PartialImage(BaseModel):
    """An early look, in a stream."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    partial_image_index: int
    created_at: int
    size: str
    output_format: OutputFormat
    background: Literal["opaque"] = "opaque"
    quality: Literal["auto"] = "auto"


class CompletedImage(BaseModel):
    """A finished picture, in a stream; `seed` and `receipt` are extensions."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    created_at: int
    size: str
    output_format: OutputFormat
    background: Literal["opaque"] = "opaque"
    quality: Literal["auto"] = "auto"
    usage: Usage = Field(default_factory=Usage)
    seed: int
    receipt: Receipt


class VideoRequest(Body):
    """POST /v1/videos, as JSON or as a form; the prompt is the name of a label."""

    prompt: str = Field(min_length=1, max_length=200, description="A label's name, in any case.")
    model: ModelName | None = Field(None, description="The first model of clips if left out.")
    seconds: str | None = Field(None, max_length=16, description="That of the model's clips.")
    size: str | None = Field(None, max_length=16, description="The model's WxH.")
    seed: Seed | None = Field(None, description="An extension: equal seeds give equal clips.")


class VideoForm(VideoRequest):
    """The same of a form's text, beside its one file."""

    model_config = ConfigDict(
        strict=False,
        json_schema_extra={
            "properties": {"input_reference": {"type": "string", "format": "binary"}}
        },
    )


class VideoPage(BaseModel):
    """Which of your videos to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100)
    after: str | None = Field(None, max_length=64, description="A video's id.")
    order: Literal["desc"] = "desc"


class VideoPart(BaseModel):
    """What of a video to download."""

    model_config = ConfigDict(extra="forbid")

    variant: Literal["video"] = "video"


class VideoError(BaseModel):
    """Why there is no video."""

    code: str
    message: str


class VideoObject(BaseModel):
    """A job that makes a clip. What a job's record does not hold is null."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    prompt: str | None
    seconds: str | None
    size: str | None
    created_at: int
    completed_at: int | None
    expires_at: int | None
    error: VideoError | None
    remixed_from_video_id: None = None


class VideoList(BaseModel):
    """GET /v1/videos, the newest first."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """DELETE /v1/videos/{id}."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class ModelObject(BaseModel):
    """A model in OpenAI's list; when it was made is not known here, so `created` is 0."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "unified-latents"


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetail(BaseModel):
    """What is wrong, as OpenAI's SDKs read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error under /v1."""

    error: ErrorDetail
