"""Settings of the service, from the environment: `UL_*`, and `PORT`.

The command line overrides them. `allowed_address` is the one rule between settings: without API
keys only this machine may call.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SHIPPED = "fashion"
"""The model that comes with the package."""
_WEBHOOK_SECRET = "whsec_"


def state_folder() -> Path:
    """Where the service keeps its state when nobody says: the XDG state directory."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "unified-latents"


def usable_threads() -> int:
    """The largest power of two that leaves one of our cores to the processes around the engine."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return 1 << (max(1, cores - 1).bit_length() - 1)


def parse_model(text: str) -> tuple[str, str]:
    """`name=folder`; `ValueError` says what is wrong."""
    name, separator, folder = (part.strip() for part in text.partition("="))
    if not (name and separator and folder):
        raise ValueError("a model is written NAME=CHECKPOINT_DIR")
    if len(name) > 64 or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ValueError("a model's name has at most 64 letters, digits, '-', '_' and '.'")
    return name, folder


def parse_secrets(text: str) -> list[bytes]:
    """`whsec_<base64>`, parted by `;` or spaces; a `ValueError` for what is none."""
    found = []
    for part in text.replace(";", " ").split():
        try:
            secret = base64.b64decode(part.removeprefix(_WEBHOOK_SECRET), validate=True)
        except ValueError:
            secret = b""
        if not part.startswith(_WEBHOOK_SECRET) or not 24 <= len(secret) <= 64:
            raise ValueError(f"a secret is written {_WEBHOOK_SECRET} and 24 to 64 bytes as base64")
        found.append(secret)
    return found


class Settings(BaseSettings):
    """All that an operator can set."""

    model_config = SettingsConfigDict(env_prefix="UL_", extra="ignore", populate_by_name=True)

    host: str = "127.0.0.1"
    port: int = Field(
        default=8000, ge=0, le=65535, validation_alias=AliasChoices("PORT", "UL_PORT")
    )
    grpc_port: int | None = Field(default=None, ge=0, le=65535)
    """Of gRPC, at the same address; none: it is not served."""
    home: Path = Field(default_factory=state_folder)
    models: Annotated[dict[str, str], NoDecode] = {}
    """Name → checkpoint folder; empty: the shipped model."""
    hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    """Names, parted by commas, under which a proxy passes requests on to a service without keys;
    it answers to those of this machine anyway."""
    allow_anonymous: bool = False
    api_keys: str = ""
    """Lines that `ul-serve key` wrote, parted by line ends or `;`."""
    api_keys_file: Path | None = None
    """A file of such lines."""
    max_body: int = Field(default=16 * 2**20, ge=1024)
    max_pixels: int = Field(default=36_000_000, ge=1)
    max_samples: int = Field(default=64, ge=1, le=1024)
    max_frames: int = Field(default=1024, ge=1)
    """Of all the clips of a request together, where they are longer than the model's own; of a file
    they have no more pixels in all than `max_pixels` in each frame of a clip of that length."""
    max_rows: int = Field(default=32, ge=1, le=1024)
    max_pending: int = Field(default=256, ge=1)
    queue_row_steps: int = Field(default=200_000, ge=1)
    """Network evaluations that may wait at once; what would be more is refused."""
    threads: int = Field(default_factory=usable_threads, ge=1)
    """Of the engine. A power of two: others split a tensor at places that move with the batch,
    and strict mode could not keep its promise."""
    device: str = "cpu"
    kernels: Literal["auto", "reference"] = "auto"
    """`reference`: plain torch on a GPU too, where the fused kernels would run."""
    compiled: Path | None = None
    """A folder that `ul-serve compile` has filled; the networks in it run as libraries. None: all
    run as they are."""
    graphs: bool = True
    """Whether passes on CUDA are recorded as graphs, and replayed."""
    grace: int = Field(default=30, ge=0)
    """Seconds that open requests get to finish after SIGTERM."""
    models_root: Path | None = None
    """Checkpoints below it may be loaded while the service runs, by name of their folder."""
    cache: Path | None = None
    """A folder for results of strict requests, to give again; none by default."""
    cache_bytes: int = Field(default=2**30, ge=2**20)
    heartbeat: float = Field(default=10.0, gt=0)
    """Seconds of silence in a stream of events after which a comment is sent."""
    stall: float = Field(default=30.0, gt=0)
    """Seconds in which a client must read something of what waits for it, or it is dropped."""
    read_timeout: float = Field(default=30.0, gt=0)
    """Seconds in which a client must send a request's head, and each next part of its body."""
    max_connections: int = Field(default=1024, ge=1)
    """Clients at once; one more is told to come back. Fewer where files are limited to fewer."""
    hang: float = Field(default=30.0, ge=1.0)
    """Seconds without a pass, or a sign of life, after which the engine is replaced."""
    patience: float = Field(default=300.0, ge=1.0)
    """Seconds that a new engine has for its first sign of life; it may load for longer."""

    redis_url: str = Field(
        default="", validation_alias=AliasChoices("REDIS_URL", "UL_REDIS_URL"), repr=False
    )
    """The job store; empty: one of the service's own, in `home`."""
    objects: str = ""
    """Where jobs keep their inputs and answers: a URL of a bucket; empty: a folder in `home`."""
    jobs: bool = True
    job_slots: int = Field(default=4, ge=0, le=256)
    """Jobs at once on this process's engine; 0: only `ul-serve worker` carries them out."""
    max_jobs: int = Field(default=25_000, ge=1)
    """Jobs that may wait at once; one more is refused."""
    job_snapshots: int = Field(default=10, ge=0)
    """Sample steps after which a job's state is kept, for whoever goes on with it; 0: never."""
    job_answers: float = Field(default=86_400.0, gt=0)
    """Seconds that a job's answer is kept."""
    job_records: float = Field(default=7 * 86_400.0, gt=0)
    """Seconds that what became of a job is kept."""
    job_lease: float = Field(default=60.0, gt=0)
    """Seconds without a sign of life from its worker after which a job is somebody else's."""
    job_renewal: float = Field(default=20.0, gt=0)
    job_stalled: float = Field(default=15.0, gt=0)
    """Seconds between two looks for jobs whose lease has run out."""

    webhook_secrets: str = Field(default="", repr=False)
    """`whsec_…`, parted by `;`: what webhooks are signed with, each of them; none: no webhooks."""
    webhook_hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    """Hosts, parted by commas, that may be told though they are not public or speak plain HTTP."""
    webhook_attempts: int = Field(default=10, ge=1, le=100)
    webhook_backoff: float = Field(default=10.0, gt=0)
    """Seconds before the second try; each later one waits twice as long."""

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: object) -> object:
        """`UL_MODELS="name=folder,other=folder"`."""
        if not isinstance(value, str):
            return value
        return dict(parse_model(part) for part in value.split(",") if part.strip())

    @field_validator("webhook_secrets")
    @classmethod
    def _secrets(cls, value: str) -> str:
        parse_secrets(value)
        return value

    @field_validator("hosts", "webhook_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        """`UL_HOSTS=latents.example.org,other.example.org`."""
        if not isinstance(value, str):
            return value
        return frozenset(part.strip().lower() for part in value.split(",") if part.strip())

    @field_validator("compiled", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        """`UL_COMPILED=` is no folder, not this one."""
        return None if value == "" else value

    @field_validator("threads")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of two")
        return value

    @property
    def served(self) -> dict[str, str]:
        """Name → folder or name of a shipped model."""
        return self.models or {SHIPPED: SHIPPED}

    @property
    def allowed_address(self) -> bool:
        """Whether calls need a key, or only this machine can call, or anybody may."""
        return self.has_keys or self.allow_anonymous or is_loopback(self.host)

    @property
    def has_keys(self) -> bool:
        """Whether anybody is asked for a key; with keys, `allow_anonymous` changes nothing."""
        return bool(self.api_keys.strip()) or self.api_keys_file is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; names other than localhost count as open."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
