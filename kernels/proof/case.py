"""One configuration of a fused operator, as a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Case(NamedTuple):
    """One call, forward and backward where there is a backward."""

    operator: str
    label: str
    dtype: torch.dtype
    run: Callable[[], None]

    @property
    def title(self) -> str:
        """Operator, label and dtype."""
        return f"{self.operator} {self.label}, {self.dtype}".replace(" ,", ",").replace(
            "torch.", ""
        )
