import datetime

from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitRequest(_message.Message):
    __slots__ = ("generate", "encode", "decode", "priority", "deadline", "idempotency_key", "webhook", "accept")
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    generate: GenerateRequest
    encode: EncodeRequest
    decode: DecodeRequest
    priority: int
    deadline: _duration_pb2.Duration
    idempotency_key: str
    webhook: str
    accept: str
    def __init__(self, generate: _Optional[_Union[GenerateRequest, _Mapping]] = ..., encode: _Optional[_Union[EncodeRequest, _Mapping]] = ..., decode: _Optional[_Union[DecodeRequest, _Mapping]] = ..., priority: _Optional[int] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., webhook: _Optional[str] = ..., accept: _Optional[str] = ...) -> None: ...

class ReadAnswerRequest(_message.Message):
    __slots__ = ("name", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class AnswerPart(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class StageSteps(_message.Message):
    __slots__ = ("base", "decode")
    BASE_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    base: int
    decode: int
    def __init__(self, base: _Optional[int] = ..., decode: _Optional[int] = ...) -> None: ...

class StageSampler(_message.Message):
    __slots__ = ("base", "decode")
    BASE_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    base: str
    decode: str
    def __init__(self, base: _Optional[str] = ..., decode: _Optional[str] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("lo", "hi")
    LO_FIELD_NUMBER: _ClassVar[int]
    HI_FIELD_NUMBER: _ClassVar[int]
    lo: float
    hi: float
    def __init__(self, lo: _Optional[float] = ..., hi: _Optional[float] = ...) -> None: ...

class GuidanceInterval(_message.Message):
    __slots__ = ("within", "everywhere")
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    EVERYWHERE_FIELD_NUMBER: _ClassVar[int]
    within: Interval
    everywhere: bool
    def __init__(self, within: _Optional[_Union[Interval, _Mapping]] = ..., everywhere: _Optional[bool] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "label_name", "label_index", "unlabelled", "frames", "n", "seed", "steps", "sampler", "guidance", "guidance_interval", "strict", "priority", "format", "previews")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_INDEX_FIELD_NUMBER: _ClassVar[int]
    UNLABELLED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    model: str
    label_name: str
    label_index: int
    unlabelled: bool
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    n: int
    seed: int
    steps: StageSteps
    sampler: StageSampler
    guidance: float
    guidance_interval: GuidanceInterval
    strict: bool
    priority: str
    format: str
    previews: int
    def __init__(self, model: _Optional[str] = ..., label_name: _Optional[str] = ..., label_index: _Optional[int] = ..., unlabelled: _Optional[bool] = ..., frames: _Optional[_Iterable[bytes]] = ..., n: _Optional[int] = ..., seed: _Optional[int] = ..., steps: _Optional[_Union[StageSteps, _Mapping]] = ..., sampler: _Optional[_Union[StageSampler, _Mapping]] = ..., guidance: _Optional[float] = ..., guidance_interval: _Optional[_Union[GuidanceInterval, _Mapping]] = ..., strict: _Optional[bool] = ..., priority: _Optional[str] = ..., format: _Optional[str] = ..., previews: _Optional[int] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("model", "image", "mode", "seed", "fit", "bitrate", "levels", "strict", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    BITRATE_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: bytes
    mode: str
    seed: int
    fit: str
    bitrate: bool
    levels: int
    strict: bool
    priority: str
    def __init__(self, model: _Optional[str] = ..., image: _Optional[bytes] = ..., mode: _Optional[str] = ..., seed: _Optional[int] = ..., fit: _Optional[str] = ..., bitrate: _Optional[bool] = ..., levels: _Optional[int] = ..., strict: _Optional[bool] = ..., priority: _Optional[str] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("model", "latent", "seed", "sample", "steps", "sampler", "strict", "priority", "format", "previews")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    model: str
    latent: bytes
    seed: int
    sample: int
    steps: int
    sampler: str
    strict: bool
    priority: str
    format: str
    previews: int
    def __init__(self, model: _Optional[str] = ..., latent: _Optional[bytes] = ..., seed: _Optional[int] = ..., sample: _Optional[int] = ..., steps: _Optional[int] = ..., sampler: _Optional[str] = ..., strict: _Optional[bool] = ..., priority: _Optional[str] = ..., format: _Optional[str] = ..., previews: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("accepted", "progress", "preview", "item")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    progress: Progress
    preview: Preview
    item: Item
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ..., item: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("request_id", "steps", "eta")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    steps: int
    eta: float
    def __init__(self, request_id: _Optional[str] = ..., steps: _Optional[int] = ..., eta: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("done", "steps", "stage", "eta")
    DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    done: int
    steps: int
    stage: str
    eta: float
    def __init__(self, done: _Optional[int] = ..., steps: _Optional[int] = ..., stage: _Optional[str] = ..., eta: _Optional[float] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("sample", "media_type", "data")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sample: int
    media_type: str
    data: bytes
    def __init__(self, sample: _Optional[int] = ..., media_type: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("data", "media_type", "receipt")
    DATA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    media_type: str
    receipt: Receipt
    def __init__(self, data: _Optional[bytes] = ..., media_type: _Optional[str] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("latent", "media_type", "kind", "shape", "latent_space", "fit", "bitrate", "receipt")
    LATENT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LATENT_SPACE_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    BITRATE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    latent: bytes
    media_type: str
    kind: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    latent_space: str
    fit: str
    bitrate: Bitrate
    receipt: Receipt
    def __init__(self, latent: _Optional[bytes] = ..., media_type: _Optional[str] = ..., kind: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., latent_space: _Optional[str] = ..., fit: _Optional[str] = ..., bitrate: _Optional[_Union[Bitrate, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Bitrate(_message.Message):
    __slots__ = ("nats", "bits", "bits_per_pixel", "bits_per_dim", "levels", "std_error")
    NATS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_DIM_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    STD_ERROR_FIELD_NUMBER: _ClassVar[int]
    nats: float
    bits: float
    bits_per_pixel: float
    bits_per_dim: float
    levels: int
    std_error: float
    def __init__(self, nats: _Optional[float] = ..., bits: _Optional[float] = ..., bits_per_pixel: _Optional[float] = ..., bits_per_dim: _Optional[float] = ..., levels: _Optional[int] = ..., std_error: _Optional[float] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("operation", "model", "digest", "kernel_set", "numerics", "codec", "format", "sampler", "steps", "seed", "sample", "n", "guidance", "guidance_interval", "label", "kind", "fit", "input_sha256", "strict", "sha256")
    class SamplerEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class StepsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    KERNEL_SET_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHA256_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    operation: str
    model: str
    digest: str
    kernel_set: str
    numerics: str
    codec: str
    format: str
    sampler: _containers.ScalarMap[str, str]
    steps: _containers.ScalarMap[str, int]
    seed: int
    sample: int
    n: int
    guidance: float
    guidance_interval: _containers.RepeatedScalarFieldContainer[float]
    label: int
    kind: str
    fit: str
    input_sha256: str
    strict: bool
    sha256: str
    def __init__(self, operation: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., kernel_set: _Optional[str] = ..., numerics: _Optional[str] = ..., codec: _Optional[str] = ..., format: _Optional[str] = ..., sampler: _Optional[_Mapping[str, str]] = ..., steps: _Optional[_Mapping[str, int]] = ..., seed: _Optional[int] = ..., sample: _Optional[int] = ..., n: _Optional[int] = ..., guidance: _Optional[float] = ..., guidance_interval: _Optional[_Iterable[float]] = ..., label: _Optional[int] = ..., kind: _Optional[str] = ..., fit: _Optional[str] = ..., input_sha256: _Optional[str] = ..., strict: _Optional[bool] = ..., sha256: _Optional[str] = ...) -> None: ...

class JobMetadata(_message.Message):
    __slots__ = ("kind", "model", "state", "cancelling", "done", "steps", "attempts")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CANCELLING_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    model: str
    state: str
    cancelling: bool
    done: int
    steps: int
    attempts: int
    def __init__(self, kind: _Optional[str] = ..., model: _Optional[str] = ..., state: _Optional[str] = ..., cancelling: _Optional[bool] = ..., done: _Optional[int] = ..., steps: _Optional[int] = ..., attempts: _Optional[int] = ...) -> None: ...

class JobAnswer(_message.Message):
    __slots__ = ("path", "media_type", "size", "sha256", "headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    path: str
    media_type: str
    size: int
    sha256: str
    headers: _containers.ScalarMap[str, str]
    def __init__(self, path: _Optional[str] = ..., media_type: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...
