"""Which kernels these are: a digest of the package's code and of the Triton that compiles it."""

from __future__ import annotations

import hashlib
import io
import tokenize
from functools import cache
from importlib.metadata import version
from pathlib import Path

_LAYOUT = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
_NOTHING = (tokenize.COMMENT, tokenize.NL)


def code(text: str) -> str:
    """A module without comments, spaces and docstrings; the same from every Python."""
    parts, fresh = [], True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _NOTHING or (fresh and token.type == tokenize.STRING):
            continue
        fresh = token.type in _LAYOUT
        parts.append(f"<{token.type}>" if fresh else "".join(token.string.split()))
    return "".join(parts)


@cache
def digest() -> str:
    """16 hexadecimal digits that change with the kernels, how they are launched, and Triton."""
    found = hashlib.sha256(version("triton").encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(code(path.read_text(encoding="utf-8")).encode())
    return found.hexdigest()[:16]
