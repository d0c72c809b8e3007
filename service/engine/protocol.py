"""All that may travel in either direction, for the two ends that decode it."""

from __future__ import annotations

import msgspec

from unified_latents.service.engine.messages import (
    Cancel,
    Checkpoint,
    Decode,
    Encode,
    Event,
    Generate,
    Hello,
    ModelCard,
    Ready,
)
from unified_latents.service.engine.telemetry import Costs, Tick


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
