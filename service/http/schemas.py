"""Requests and answers as JSON. Strict: no unknown field, no coercion, no NaN."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from unified_latents.service.engine.messages import LatentKind, SamplerName
from unified_latents.service.engine.telemetry import Priority
from unified_latents.service.http.images import Fit, FitReport
from unified_latents.service.http.negotiation import Format

MAX_SEED = 2**53 - 1
MAX_STEPS = 1000
MAX_LEVELS = 1024
MAX_PREVIEWS = 16


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("must be [lo, hi] with lo ≤ hi")
    return value


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
ModelName = Annotated[str, Field(min_length=1, max_length=64)]
Label = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictStr, Field(max_length=200)] | None
Level = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Interval = Annotated[tuple[Level, Level], AfterValidator(_ordered)]
Timeout = Annotated[float, Field(gt=0, le=86_400)]
Previews = Annotated[int, Field(ge=0, le=MAX_PREVIEWS)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Index = Annotated[int, Field(ge=0, le=2**31 - 1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Operation = Literal["generate", "decode", "encode"]


class Body(BaseModel):
    """A JSON body."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StageSteps(Body):
    """Network evaluations a sample, by stage; what is left out is the model's default."""

    base: Steps | None = None
    decode: Steps | None = None


class StageSampler(Body):
    """The sampler of each stage; what is left out is the model's default."""

    base: SamplerName | None = None
    decode: SamplerName | None = None


class GenerateRequest(Body):
    """What to sample. Only `label` has no default."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"label": "sneaker", "n": 1, "seed": 1}]}
    )

    model: ModelName | None = Field(None, description="A name from GET /models; its first one.")
    label: Label = Field(
        description="A name from the model's labels in any case, its index, or null for no class."
    )
    frames: list[str] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Base64 of pictures or clips: the known first frames, for models of clips.",
    )
    n: int = Field(1, ge=1, description="Images; the service's own limit is 64 by default.")
    seed: Seed | None = Field(None, description="Random if left out, and reported.")
    steps: StageSteps = Field(default_factory=StageSteps)
    sampler: StageSampler = Field(default_factory=StageSampler)
    guidance: Guidance | None = Field(
        None, description="w of uncond + w (cond − uncond); 1 is none."
    )
    guidance_interval: Interval | None = Field(
        None, description="Guide only where lo ≤ λ ≤ hi; null guides everywhere."
    )
    strict: bool = Field(True, description="Bytes that do not depend on other requests.")
    priority: Priority = Field("normal", description="`high` needs a key with that scope.")
    timeout: Timeout | None = Field(
        None, description="Seconds until a 504; refused at once where a forecast says so."
    )
    format: Format | None = Field(None, description="What is inside the answer; beats Accept.")
    stream: bool = Field(False, description="Answer with server-sent events as the work goes on.")
    previews: Previews = Field(0, description="Early looks at each sample, in a stream.")


class EncodeBody(Body):
    """A picture as JSON."""

    image: str = Field(description="Base64 of a PNG, JPEG or WebP file.")


class Query(BaseModel):
    """A query string: text, so numbers are parsed; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class EncodeQuery(Query):
    """How to encode."""

    model: ModelName | None = None
    mode: Literal["mean", "noised"] = "mean"
    seed: Seed | None = None
    fit: Fit = "crop"
    bitrate: bool = False
    levels: int = Field(64, ge=1, le=MAX_LEVELS)
    strict: bool = True
    priority: Priority = "normal"
    timeout: Timeout | None = None


class DecodeQuery(Query):
    """How to decode; row i of the latent is sample `sample` + i."""

    model: ModelName | None = None
    seed: Seed | None = None
    sample: Index = 0
    steps: Steps | None = None
    sampler: SamplerName | None = None
    strict: bool = True
    priority: Priority = "normal"
    timeout: Timeout | None = None
    format: Literal["png", "webp", "jpeg", "mp4", "webm", "gif", "apng"] | None = None
    stream: bool = False
    previews: Previews = 0


class Receipt(Body):
    """All that the bytes are a function of, and their digest: what `POST /replay` takes.

    `input_sha256` is that of the file as it was sent (encode), of the float32 values of the one
    latent that was decoded, or of the known frames' pixels, uint8 [c, k, H, W] (generate). `n` is
    more than one only where several latents share a file.
    """

    operation: Operation
    model: ModelName
    digest: Digest
    kernel_set: str
    numerics: str = Field(description="Equal ids of equal mode give equal bytes.")
    codec: str = Field(description="The picture libraries, which decide a file's bytes too.")
    format: Format
    sampler: dict[Literal["base", "decode"], SamplerName]
    steps: dict[Literal["base", "decode"], Steps]
    seed: Seed
    sample: Index
    n: int = Field(1, ge=1)
    guidance: Guidance | None = None
    guidance_interval: Interval | None = None
    label: Index | None = None
    kind: LatentKind | None = None
    fit: Fit | None = None
    input_sha256: Digest | None = None
    strict: bool
    sha256: Digest


class ReplayRequest(Body):
    """A receipt to run again, and what it was made from."""

    receipt: Receipt
    input: str | None = Field(
        None, description="Base64 of the picture (encode) or the latent's file (decode)."
    )
    tolerance: bool = Field(
        False, description="Allow another numerics id: compare with `original` within a tolerance."
    )
    original: str | None = Field(None, description="Base64 of the file that the receipt is of.")


class ReplayResponse(BaseModel):
    """What came out. `match`: the same digest; `difference`: the largest, from `original`.

    Differences of latents are in their own units, those of pictures in steps of 255.
    """

    match: bool
    sha256: str
    difference: float | None = None
    tolerance: float
    receipt: Receipt
    media_type: str
    b64: str


class Item(BaseModel):
    """One image or latent."""

    b64: str
    media_type: str
    seed: int
    sample: int
    receipt: Receipt


class ImagesResponse(BaseModel):
    """The JSON answer of /generate and /decode."""

    model: str
    data: list[Item]


class BitrateReport(BaseModel):
    """The bound for one image. `bits_per_pixel` divides by the H·W of the model's native grid,
    padding included; `bits_per_dim` by the number of latent dimensions. `std_error` is in nats,
    and null where one level gives none.
    """

    nats: float
    bits: float
    bits_per_pixel: float
    bits_per_dim: float
    levels: int
    std_error: float | None


class EncodeResponse(BaseModel):
    """The JSON answer of /encode."""

    model: str
    latent: str
    media_type: str
    kind: LatentKind
    shape: list[int]
    latent_space: str
    seed: int
    sha256: str
    fit: FitReport
    bitrate: BitrateReport | None
    receipt: Receipt


class ModelEntry(BaseModel):
    """One served model."""

    name: str
    kind: str
    digest: str
    labels: list[str]
    size: list[int]
    channels: int
    preprocessing: dict[str, Any]
    latent: dict[str, Any]
    defaults: dict[str, Any]
    data: dict[str, str]
    licence: str
    kernel_set: str
    kernel_fallback: Literal["forced", "no_triton"] | None = Field(
        None, description="Why a GPU runs the reference kernels; null where it does not."
    )
    cuda_graphs: bool = Field(description="Whether passes are recorded on a GPU, and replayed.")
    compiled: list[str] = Field(
        description="Networks that run as libraries, made ahead of time by `ul-serve compile`."
    )
    numerics: dict[str, str]
    canary: dict[str, Any]


class ModelsResponse(BaseModel):
    """The answer of /models."""

    models: list[ModelEntry]


class Health(BaseModel):
    """The answer of /healthz and /readyz."""

    status: str
    engine: str
    models: dict[str, str]
    jobs: Literal["up", "down", "off"]
    """Whether the job store answers; `off`: the service runs without jobs."""
