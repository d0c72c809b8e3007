"""What a parent and its engine say to each other: tagged structs, packed with msgpack.

A parent sends one `Hello` and then commands; the engine answers `Ready` (or `Failed`) and then
events. Unknown fields are ignored, so a newer peer may add some; `protocol` says when it may not.
Every event of a request carries the request's id. Arrays travel as raw little-endian bytes.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from unified_latents.service.engine.telemetry import Priority, StageName

PROTOCOL = 4

SamplerName = Literal["ancestral", "ddim", "dpmpp-2m"]
LatentKind = Literal["z_clean", "z_0"]
ErrorCode = Literal[
    "nonfinite", "engine_error", "engine_lost", "shutting_down",
    "unknown_model", "model_replaced", "deadline_exceeded", "out_of_memory",
]  # fmt: skip


class Array(msgspec.Struct, frozen=True):
    """A dense array, row-major; `data` has exactly the bytes that shape and dtype need."""

    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    data: bytes

    def __post_init__(self) -> None:
        width = 4 if self.dtype == "float32" else 1
        if math.prod(self.shape) * width != len(self.data):
            raise ValueError(f"{len(self.data)} bytes do not fill {self.dtype} {self.shape}")


class Trajectory(msgspec.Struct, frozen=True):
    """How one stage is sampled."""

    steps: int
    sampler: SamplerName


class Checkpoint(msgspec.Struct, frozen=True):
    """A model to serve and the folder it lies in."""

    name: str
    path: str


class SampleState(msgspec.Struct, frozen=True):
    """One sample between two steps of a stage; after the last step of its last, its answer."""

    stage: StageName
    step: int
    """Steps taken in this stage."""
    x_t: Array
    previous: Array
    """x̂ of the step before: all the history that a solver has."""
    given: Array | None
    """The z_0 that is decoded, where it does not come with the request."""


class Snapshot(msgspec.Struct, tag="snapshot", frozen=True):
    """A request on its way; as `resume` it goes on to the same bytes, where `snapshots.fits`."""

    id: int
    done: int
    """Sample steps taken."""
    samples: tuple[SampleState, ...]
    request: str
    """The request's fingerprint."""
    model: str
    """The digest of the checkpoint."""
    numerics: str
    digest: str = ""
    """SHA-256 of all the above but `id`."""


class Generate(msgspec.Struct, tag="generate", frozen=True):
    """Samples `first` … `first + n − 1` of `seed`; `decode` absent: the latents themselves."""

    id: int
    model: str
    strict: bool
    seed: int
    first: int
    n: int
    label: int
    base: Trajectory
    guidance: float
    interval: tuple[float, float] | None
    decode: Trajectory | None
    priority: Priority = "normal"
    timeout: float | None = None
    """Seconds from arrival to the answer; after them, `deadline_exceeded`."""
    previews: int = 0
    """Early looks at each sample, evenly spaced over its steps."""
    levels: tuple[float, float] | None = None
    """λ(1) and λ(0), λ linear between them: the interval's price; None: all steps are guided."""
    frames: Array | None = None
    """The known first frames of a clip, uint8 [c, k, H, W]; none: nothing is known."""
    snapshot_every: int = 0
    """Steps of each sample from one `Snapshot` to the next; 0: none."""
    resume: Snapshot | None = None
    """Where to start; one that does not fit is ignored, as `Accepted.done` shows."""


class Encode(msgspec.Struct, tag="encode", frozen=True):
    """One image or clip to a latent, in `windows` passes; `levels` > 0 asks for its bitrate too."""

    id: int
    model: str
    strict: bool
    seed: int
    image: Array
    kind: LatentKind
    levels: int
    priority: Priority = "normal"
    timeout: float | None = None
    windows: int = 1


class Decode(msgspec.Struct, tag="decode", frozen=True):
    """Latents to images or clips; row i of `z` is sample `first + i` of `seed`."""

    id: int
    model: str
    strict: bool
    seed: int
    first: int
    z: Array
    kind: LatentKind
    decode: Trajectory
    priority: Priority = "normal"
    timeout: float | None = None
    previews: int = 0
    snapshot_every: int = 0
    resume: Snapshot | None = None
    windows: int = 1
    """Passes of a step of a sample: more than one where clips are longer than the model's own."""


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Forget a request; unknown ids are ignored."""

    id: int


Request = Generate | Encode | Decode


class Preprocessing(msgspec.Struct, frozen=True):
    """What training did to its pictures."""

    mode: Literal["L", "RGB"]
    fit: Literal["crop", "pad"]
    background: int


class Defaults(msgspec.Struct, frozen=True):
    """What a request gets where it says nothing."""

    base: Trajectory
    decode: Trajectory
    guidance: float
    interval: tuple[float, float] | None


class DataSource(msgspec.Struct, frozen=True):
    """The pictures a model was trained on."""

    name: str
    source: str
    licence: str


class Canary(msgspec.Struct, frozen=True):
    """Whether the recorded fixed-seed run was reproduced, and how far off it was."""

    ok: bool
    latent_error: float
    image_error: float


class ModelCard(msgspec.Struct, frozen=True):
    """A loaded model, described so that the parent needs nothing else about it."""

    name: str
    kind: Literal["generator", "autoencoder"]
    digest: str
    labels: tuple[str, ...]
    channels: int
    size: tuple[int, ...]
    preprocessing: Preprocessing
    latent_shape: tuple[int, ...]
    latent_space: str
    lambda_0: float
    lambda_1: float
    defaults: Defaults
    data: DataSource
    licence: str
    canary: Canary
    known_frames: int = 0
    """How many first frames of a clip a request may show the model."""
    compiled: tuple[str, ...] = ()
    """Networks that run as libraries made ahead of time."""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """Everything is loaded; requests may come. The numerics ids: equal ids, equal bytes."""

    protocol: int
    models: tuple[ModelCard, ...]
    kernel_set: str
    numerics_strict: str
    numerics_fast: str
    torch: str
    device: str
    kernel_fallback: Literal["forced", "no_triton"] | None = None
    """Why a GPU runs the reference kernels."""
    graphs: bool = False
    """Whether passes are recorded as CUDA graphs and replayed."""

    def numerics(self, strict: bool) -> str:
        """The id for a request's mode."""
        return self.numerics_strict if strict else self.numerics_fast


class Accepted(msgspec.Struct, tag="accepted", frozen=True):
    """The request has its rows in the loop; `steps` row evaluations lie ahead."""

    id: int
    steps: int
    eta: float | None = None
    """Forecast of the seconds until the result; None where nothing has been measured yet."""
    done: int = 0
    """Sample steps that `resume` has spared; 0 where it did not fit."""
    model: str = ""
    """The digest of the checkpoint that it runs on."""


class Progress(msgspec.Struct, tag="progress", frozen=True):
    """`done` of `steps` sample steps."""

    id: int
    done: int
    steps: int
    stage: StageName | None = None
    """The stage that the last of them belonged to."""
    eta: float | None = None


class Preview(msgspec.Struct, tag="preview", frozen=True):
    """An early look at one sample."""

    id: int
    sample: int
    image: Array


class Bitrate(msgspec.Struct, frozen=True):
    """The bound for one image and the standard error of its estimate, both in nats."""

    nats: float
    std_error: float


class Result(msgspec.Struct, tag="result", frozen=True):
    """The end of a request: `images` uint8 [n, c, H, W], or `latents` float32 [n, z, …]."""

    id: int
    images: Array | None = None
    latents: Array | None = None
    bitrate: Bitrate | None = None
    model: str = ""
    """The digest of the checkpoint that it came from."""


class Error(msgspec.Struct, tag="error", frozen=True):
    """The end of a request that failed alone. `code` is stable; `detail` holds no input."""

    id: int
    code: ErrorCode
    detail: str


Event = Accepted | Progress | Preview | Snapshot | Result | Error
