"""A call: what the engine shall do, and the form of the answer; the answer is a function of both.

The route that takes a request and the worker that takes a job make the same bytes of a call.
"""

from __future__ import annotations

from typing import Any

import msgspec

from unified_latents.service.engine.messages import Request


class Call(msgspec.Struct, frozen=True):
    """An engine's request, its defaults filled in and its seed chosen, and how to answer it."""

    message: Request
    format: str
    """What is inside the answer."""
    bare: bool
    """Whether that travels without a JSON envelope."""
    fit: dict[str, Any] | None = None
    """What was done to a picture before it was encoded."""
    source: str | None = None
    """SHA-256 of that picture's file."""


class Answer(msgspec.Struct, frozen=True):
    """A call's answer as HTTP sends it."""

    body: bytes
    media_type: str
    headers: dict[str, str]
