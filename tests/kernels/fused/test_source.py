"""The digest changes with the code, and with nothing else."""

from __future__ import annotations

import re

import pytest

from unified_latents.kernels.fused.source import code, digest

_TEXT = '''"""What it does."""

def kernel(x):
    """Words."""
    return f"{x + 1} elements"  # why
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What", "Whatever"),
        ("Words", "More words"),
        ("# why", ""),
        ("x + 1", "x+1"),
        ("\n\n", "\n"),
    ],
)
def test_words_and_spaces_are_no_code(old: str, new: str) -> None:
    assert code(_TEXT.replace(old, new)) == code(_TEXT)


@pytest.mark.parametrize(
    ("old", "new"), [("x + 1", "x + 2"), ("elements", "rows"), ("    return", "return")]
)
def test_everything_else_is(old: str, new: str) -> None:
    assert code(_TEXT.replace(old, new)) != code(_TEXT)


def test_a_digest_is_sixteen_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16}", digest())
