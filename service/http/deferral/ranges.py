"""One byte range of a whole that is known (RFC 9110, 14): what a player asks for when it seeks."""

from __future__ import annotations

import re

from unified_latents.service.http.problems import FieldError, Problem

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None for the whole.

    What is not one plain byte range is ignored, as the standard wants; one that lies outside is a
    416.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise _unsatisfiable(size)
    return start, end


def _unsatisfiable(size: int) -> Problem:
    message = "lies outside the answer"
    error = FieldError(field="Range", message=message, limit=size)
    headers = {"Content-Range": f"bytes */{size}"}
    return Problem(416, "range_not_satisfiable", f"Range: {message}", [error], headers)
