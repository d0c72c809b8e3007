from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unified_latents.kernels.gelu import gelu
from unified_latents.models import checkpoint
from unified_latents.service.stepper.networks.compiled import networks
from unified_latents.service.stepper.networks.numerics import arithmetic, numerics_id


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


@pytest.fixture
def four_threads() -> Iterator[None]:
    """They divide a tensor of more than 32 768 elements at places that lie within a row."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("function", [F.silu, torch.sigmoid, gelu])
@pytest.mark.parametrize("shape", [(16, 640), (3, 999)])
def test_strict_exponentials_do_not_depend_on_threads(
    function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...], four_threads: None
) -> None:
    x = 3 * torch.randn(32, *shape, generator=torch.Generator().manual_seed(0))
    with arithmetic(strict=True):
        alone = torch.cat([function(row) for row in x.split(1)])
        for n in range(1, 33):
            assert torch.equal(function(x[:n]), alone[:n]), n


@torch.inference_mode()
def test_strict_networks_on_four_threads(four_threads: None) -> None:
    """Networks as wide as those that are served."""
    loaded = checkpoint.load("fashion")
    for name, network in networks(loaded.unified, loaded.base, 8).items():
        with arithmetic(strict=True):
            parts = [
                network.module(*(each[i : i + 1] for each in network.inputs)) for i in range(8)
            ]
            for n in (3, 8):
                made = network.module(*(each[:n] for each in network.inputs))
                assert torch.equal(made, torch.cat(parts[:n])), (name, n)


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
