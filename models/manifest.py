"""What a checkpoint says of itself, in `manifest.json`; no torch here.

The format is JSON read by msgspec into frozen dataclasses: unknown fields are ignored, wrong
types are errors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")

FORMAT = 1
MANIFEST = "manifest.json"
CONFIG = "config.json"
CANARY = "canary.safetensors"


class CheckpointError(ValueError):
    """A checkpoint folder is missing, damaged, or of another format; the text names the file."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the encoder's input."""

    mode: Literal["L", "RGB"]
    fit: Literal["pad", "crop"]
    background: int
    """0…255: what alpha is laid over, and what padding is filled with."""


@dataclass(frozen=True)
class DataSource:
    """What it was trained on."""

    name: str
    source: str
    licence: str
    counts: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """What a request gets that does not say otherwise."""

    base_steps: int = 50
    decode_steps: int = 50
    base_sampler: Literal["ancestral", "ddim", "dpmpp-2m"] = "dpmpp-2m"
    decode_sampler: Literal["ancestral", "ddim", "dpmpp-2m"] = "ancestral"
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Card:
    """Everything about a checkpoint that its author says; the rest is measured when it is saved."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    data: DataSource
    licence: str
    defaults: Defaults = Defaults()
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: the card, and the digests that tie it to the files beside it."""

    format: int
    card: Card
    latent_space: str
    lambda_0: float
    files: dict[str, str]
    """File name → SHA-256, of every other file in the folder."""

    @property
    def digest(self) -> str:
        """SHA-256 over the names and digests of all files: the identity of the model."""
        lines = "".join(f"{name} {self.files[name]}\n" for name in sorted(self.files))
        return hashlib.sha256(lines.encode()).hexdigest()


def write(path: Path, value: object) -> None:
    """JSON, indented, one trailing newline."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def read(path: Path, kind: type[T]) -> T:
    """The file as `kind`; CheckpointError names the file and what is wrong with it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder, of this format, every file verified by SHA-256."""
    manifest = read(folder / MANIFEST, Manifest)
    if manifest.format != FORMAT:
        raise CheckpointError(f"{folder / MANIFEST}: format {manifest.format}, not {FORMAT}")
    for name, digest in manifest.files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: named in the manifest, but no such file")
        if file_digest(folder / name) != digest:
            raise CheckpointError(f"{folder / name}: its SHA-256 differs from the manifest's")
    return manifest


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
