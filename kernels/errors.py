"""What a fused kernel says when it cannot take its inputs: the value, and the set it supports."""

from __future__ import annotations

from collections.abc import Collection


class UnsupportedError(ValueError):
    """An input outside a fused kernel's set; there is no silent fallback."""

    def __init__(self, what: str, value: object, supported: Collection[object]) -> None:
        choices = ", ".join(str(each) for each in supported)
        super().__init__(f"{what} {value} is not supported by the fused kernels: use {choices}")
        self.what, self.value, self.supported = what, value, tuple(supported)


def require(what: str, value: object, supported: Collection[object]) -> None:
    """Raise UnsupportedError unless `value` is in `supported`."""
    if value not in supported:
        raise UnsupportedError(what, value, supported)
