"""All that may travel in either direction, for the two ends that decode it."""

from __future__ import annotations

from typing import Literal

import msgspec

from unified_latents.service.engine.messages import (
    Cancel,
    Checkpoint,
    Decode,
    Encode,
    Event,
    Generate,
    ModelCard,
    Ready,
)
from unified_latents.service.engine.telemetry import Costs, Tick


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """The first message: what to load, and how much of the machine to use."""

    protocol: int
    checkpoints: tuple[Checkpoint, ...]
    threads: int
    max_rows: int
    device: str
    cache: str | None = None
    """A folder for what an engine may lose: the costs of its passes."""
    kernels: Literal["auto", "reference"] = "auto"
    compiled: tuple[str, ...] = ()
    """Folders of compiled networks."""
    graphs: bool = True
    """Whether passes are recorded on CUDA, and replayed."""


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The engine cannot start and will not on another try; it exits after this."""

    detail: str


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Are you there? Answered at once, in the middle of a pass too."""


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """The answer to a `Ping`: seconds in the present turn of the step loop, 0 when idle."""

    turn: float = 0.0


class Load(msgspec.Struct, tag="load", frozen=True):
    """Load a checkpoint beside what is served, and then serve it under its name.

    Rows on their way finish on the old one. Answered by `Loaded`.
    """

    id: int
    checkpoint: Checkpoint
    other_space: bool = False
    """Whether its latents may be of another space than those of the one it replaces."""


class Unload(msgspec.Struct, tag="unload", frozen=True):
    """Serve a model no longer; rows on their way finish. Answered by `Loaded`."""

    id: int
    name: str


class Loaded(msgspec.Struct, tag="loaded", frozen=True):
    """The answer to `Load` and `Unload`: the card of what is served now, or what is wrong.

    With an error everything is as it was before.
    """

    id: int
    card: ModelCard | None = None
    error: str | None = None


Command = Hello | Generate | Encode | Decode | Cancel | Load | Unload | Ping
Message = Ready | Failed | Event | Loaded | Tick | Costs | Pong
