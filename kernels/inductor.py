"""How Inductor makes loops of the reference kernels, in training and in the engine.

tanh, the dear part of a half's GELU, in terms of exp: a third of the time, and as exact.
Products and sums may become one instruction, whose result is rounded once instead of twice.
"""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, Any] = {
    "cpp.use_decompose_tanh": True,
    "cpp.enable_floating_point_contract_flag": "fast",
}
"""For `torch.compile(…, options=…)`; a GPU's kernels are not concerned."""
