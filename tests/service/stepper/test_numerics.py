from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unified_latents.service.stepper.numerics import arithmetic, numerics_id


class Batches(TorchFunctionMode):
    """Notes the batch of every convolution that reaches torch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            self.seen.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("strict", "batches"), [(True, [1, 1, 1]), (False, [3])], ids=["strict", "fast"]
)
def test_strict_convolutions_see_one_row_at_a_time(strict: bool, batches: list[int]) -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(3, 2, 5, 5)
    with Batches() as noted, arithmetic(strict), torch.no_grad():
        y = layer(x)
    assert noted.seen == batches
    torch.testing.assert_close(y, layer(x).detach())


def test_strict_rows_equal_single_rows_bit_for_bit() -> None:
    layer, x = nn.Conv2d(8, 8, 3, padding=1), torch.randn(16, 8, 16, 16)
    with torch.no_grad(), arithmetic(strict=True):
        together = layer(x)
    alone = torch.cat([layer(row).detach() for row in x.split(1)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("width", [32, 192])
def test_strict_vectors_have_the_same_bits_in_any_number(width: int) -> None:
    """The products of conditioning vectors, on whatever processor this is."""
    layer, x = nn.Linear(width, 6 * width), torch.randn(33, width)
    with torch.no_grad(), arithmetic(strict=True):
        whole = layer(x)
        assert whole.shape == (33, 6 * width)
        for n in (*range(1, 18), 32):
            assert torch.equal(layer(x[:n]), whole[:n]), n
    torch.testing.assert_close(whole, layer(x).detach())


def test_the_id_names_the_mode_and_the_kernels() -> None:
    ids = {
        numerics_id("cpu", kernels, strict=strict)
        for kernels in ("a", "b")
        for strict in (True, False)
    }
    assert len(ids) == 4
    assert all(len(name) == 16 for name in ids)


def test_the_id_names_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = numerics_id("cpu", "a", strict=True)
    monkeypatch.setenv("MKL_CBWR", "something else")
    assert numerics_id("cpu", "a", strict=True) != before
