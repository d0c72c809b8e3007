"""All that may travel in either direction, for the two ends that decode it."""

from __future__ import annotations

import msgspec

from unified_latents.service.engine.messages import (
    Cancel,
    Decode,
    Encode,
    Event,
    Generate,
    Hello,
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


Command = Hello | Generate | Encode | Decode | Cancel | Ping
Message = Ready | Failed | Event | Tick | Costs | Pong
