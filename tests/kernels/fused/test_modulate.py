"""Fused modulation against the fp64 reference: values, every gradient, odd shapes, strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unified_latents.kernels import modulate as reference
from unified_latents.kernels.errors import UnsupportedError
from unified_latents.kernels.fused import modulate as fused
from unified_latents.kernels.fused.tiles import Shape

Compare = Callable[..., dict[str, float]]
_SHAPES = [
    (1, 1, 16, torch.float32),
    (3, 63, 96, torch.float32),
    (1, 257, 384, torch.bfloat16),
    (3, 1, 1152, torch.bfloat16),
    (1, 63, 33, torch.float16),
    (3, 17, 40, torch.float32),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "length", "width", "dtype"), _SHAPES)
def test_modulate_equals_fp64(
    compare: Compare, n: int, length: int, width: int, dtype: torch.dtype
) -> None:
    """Shift and scale are views into one wide projection, as in a block."""
    x = (draw(n, length, width) * 3 + 1).to(dtype)
    chunk = draw(n, 6 * width, seed=1).to(dtype).chunk(6, -1)
    inputs = (x, chunk[1], chunk[3])
    assert compare(fused.modulate, reference.modulate, inputs, dtype) == {}


@pytest.mark.parametrize(("n", "length", "width", "dtype"), _SHAPES)
def test_gated_residual_equals_fp64(
    compare: Compare, n: int, length: int, width: int, dtype: torch.dtype
) -> None:
    x, y = (draw(n, length, width, seed=i).to(dtype) for i in range(2))
    gate = draw(n, 6 * width, seed=2).to(dtype).chunk(6, -1)[2]
    assert compare(fused.gated_residual, reference.gated_residual, (x, y, gate), dtype) == {}


def test_a_transposed_input(compare: Compare) -> None:
    x, y = (draw(2, 12, 20, seed=i).transpose(1, 2) for i in range(2))
    shift, scale = draw(2, 12, seed=3), draw(12, 2, seed=4).T
    assert compare(fused.modulate, reference.modulate, (x, shift, scale), x.dtype) == {}
    assert compare(fused.gated_residual, reference.gated_residual, (x, y, scale), x.dtype) == {}


def test_a_thousand_positions(compare: Compare) -> None:
    x, shift, scale = draw(1, 1000, 32), draw(1, 32, seed=1), draw(1, 32, seed=2)
    assert compare(fused.modulate, reference.modulate, (x, shift, scale), x.dtype) == {}


def test_mixed_precision_is_promoted_as_in_the_reference(compare: Compare) -> None:
    """Under autocast the residual is fp32 and the branch and its gate are bf16."""
    x, y, gate = draw(2, 5, 32), draw(2, 5, 32, seed=1).bfloat16(), draw(2, 32, seed=2).bfloat16()
    assert fused.gated_residual(x, y, gate).dtype == torch.float32
    assert compare(fused.gated_residual, reference.gated_residual, (x, y, gate), y.dtype) == {}
    assert compare(fused.modulate, reference.modulate, (x, gate, gate), y.dtype) == {}


@pytest.mark.parametrize(
    ("cut", "length"), [(Shape(32, 16, 24, 4), 257), (Shape(32, 256, 192, 4), 1000)]
)
def test_no_position_is_summed_twice(
    compare: Compare, monkeypatch: pytest.MonkeyPatch, cut: Shape, length: int
) -> None:
    """A program's last tile may reach into the next program's positions; it leaves them alone."""
    monkeypatch.setattr(fused, "shape", lambda x: cut)
    x, y = (draw(3, length, 32, seed=i) for i in range(2))
    shift, scale = (draw(3, 32, seed=i) for i in (2, 3))
    assert compare(fused.modulate, reference.modulate, (x, shift, scale), x.dtype) == {}
    assert compare(fused.gated_residual, reference.gated_residual, (x, y, scale), x.dtype) == {}


@pytest.mark.parametrize("name", ["modulate", "gated_residual"])
def test_the_compiler_sees_through(name: str) -> None:
    """fullgraph=True and torch.export pass, and give the eager bytes and gradients."""
    run: Callable[..., Tensor] = getattr(fused, name)
    x, b, c = draw(2, 5, 32), draw(2, 32, seed=1), draw(2, 32, seed=2)
    inputs = (x, b if name == "modulate" else draw(2, 5, 32, seed=3), c)
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    compiled: Callable[..., Tensor] = torch.compile(run, fullgraph=True, backend="aot_eager")
    eager, got = run(*leaves), compiled(*leaves)
    assert torch.equal(eager, got)
    pairs = zip(
        torch.autograd.grad(eager.sum(), leaves),
        torch.autograd.grad(got.sum(), leaves),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)

    class Module(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            result: Tensor = run(a, b, c)
            return result

    exported: Any = torch.export.export(Module(), inputs).module()
    assert torch.equal(exported(*inputs), eager)


def test_operators_keep_torch_library_s_contract() -> None:
    x, b, c = (each.requires_grad_() for each in (draw(2, 3, 16), draw(2, 16), draw(2, 16)))
    torch.library.opcheck(torch.ops.unified_latents.modulate.default, (x, b, c))
    torch.library.opcheck(torch.ops.unified_latents.gated_residual.default, (x, draw(2, 3, 16), c))


def test_what_is_not_supported_is_named() -> None:
    x, b = draw(2, 3, 16), draw(2, 16)
    with pytest.raises(UnsupportedError, match=r"dtype torch.float64 .*float16"):
        fused.modulate(x.double(), b.double(), b.double())
    with pytest.raises(UnsupportedError, match=r"dtype torch.float64"):
        fused.gated_residual(x, x, b.double())
    with pytest.raises(UnsupportedError, match=r"shape \(2, 8\)"):
        fused.modulate(x, b[:, :8], b)
    with pytest.raises(UnsupportedError, match=r"d ≤ 8192"):
        fused.modulate(torch.zeros(1, 1, 8193), torch.zeros(1, 8193), torch.zeros(1, 8193))
    with pytest.raises(UnsupportedError, match="shape"):
        fused.gated_residual(x, x[:, :2], b)
