"""A refusal names the value and the supported set."""

from __future__ import annotations

import pytest

from unified_latents.kernels.errors import UnsupportedError, require


def test_require_names_value_and_set() -> None:
    require("head dim", 64, (32, 64))
    with pytest.raises(UnsupportedError, match=r"head dim 80 .* use 32, 64") as caught:
        require("head dim", 80, (32, 64))
    assert (caught.value.what, caught.value.value, caught.value.supported) == (
        "head dim", 80, (32, 64),
    )  # fmt: skip
