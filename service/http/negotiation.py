"""What an answer is made of: a JSON envelope, or the bytes themselves.

`Accept` chooses the envelope; `format`, where the request has one, chooses what is inside and
beats `Accept`. Bytes can hold one image, or a whole latent tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unified_latents.service.http.problems import FieldError, Problem

Format = Literal["png", "webp", "jpeg", "mp4", "webm", "gif", "apng", "latents"]
FILMS: tuple[Format, ...] = ("mp4", "webm", "gif", "apng")
PICTURES: tuple[Format, ...] = ("png", "webp", "jpeg")

JSON = "application/json"
EVENTS = "text/event-stream"
LATENT = "application/vnd.ul.latent+safetensors"
MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "gif": "image/gif",
    "apng": "image/apng",
    "latents": LATENT,
}
_MAX_RANGES = 64


@dataclass(frozen=True)
class Choice:
    """The format inside, and whether it travels bare."""

    format: Format
    bare: bool

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]


@dataclass(frozen=True)
class _Range:
    pattern: str
    quality: float

    @property
    def specificity(self) -> int:
        return 0 if self.pattern == "*/*" else (1 if self.pattern.endswith("/*") else 2)

    def matches(self, media_type: str) -> bool:
        major = media_type.split("/")[0]
        return self.pattern in ("*/*", f"{major}/*", media_type)


def parse_accept(header: str | None) -> list[_Range]:
    """The media ranges of an Accept header; none given accepts everything."""
    ranges = [_parse_range(part) for part in (header or "").split(",")[:_MAX_RANGES]]
    return [r for r in ranges if r is not None] or [_Range("*/*", 1.0)]


def _parse_range(text: str) -> _Range | None:
    pattern, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                quality = 0.0
    pattern = "image/jpeg" if pattern == "image/jpg" else pattern
    return _Range(pattern, quality if quality == quality else 0.0) if pattern else None


def quality(ranges: Sequence[_Range], media_type: str) -> float:
    """How welcome a media type is: the quality of the most specific range that matches it."""
    matching = [r for r in ranges if r.matches(media_type)]
    return max(matching, key=lambda r: r.specificity).quality if matching else 0.0


def wants_stream(accept: str | None) -> bool:
    """Whether server-sent events were asked for by name, and JSON is not more welcome."""
    ranges = parse_accept(accept)
    named = [r for r in ranges if r.pattern == EVENTS]
    return bool(named) and named[0].quality > 0 and named[0].quality >= quality(ranges, JSON)


def choose(
    accept: str | None,
    *,
    wanted: Format | None,
    fallback: Format,
    bare: Sequence[Format],
    prefer_bare: bool = False,
) -> Choice:
    """The answer's form, or a 406.

    `bare` are the formats that could travel without an envelope. With `wanted`, a welcome for any
    of them counts as one for it. `fallback` goes into an envelope when nobody named a format.
    `prefer_bare` says which wins where both are equally welcome.
    """
    ranges = parse_accept(accept)
    envelope = quality(ranges, JSON)
    welcome = {name: quality(ranges, MEDIA_TYPES[name]) for name in bare}
    best = max(welcome, key=lambda name: welcome[name], default=None)
    naked = welcome[best] if best is not None and (wanted is None or wanted in bare) else 0.0
    if naked > envelope or (prefer_bare and naked and naked == envelope):
        return Choice(wanted or best or fallback, bare=True)
    if envelope > 0:
        return Choice(wanted or fallback, bare=False)
    offered = ", ".join([JSON, *(MEDIA_TYPES[name] for name in bare)])
    message = "no form of this answer is acceptable; an image alone needs n = 1"
    raise Problem(
        406, "not_acceptable", message, [FieldError(field="Accept", message=message, limit=offered)]
    )
