"""These tests run under Triton's interpreter, in the process that test_fused.py starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖ in fp64, absolute where want is zero; NaN where got holds one."""
    size = want.double().norm()
    return float((got.double() - want.double()).norm() / (size if size > 0 else 1))


@pytest.fixture(scope="session")
def compare() -> Callable[..., dict[str, float]]:
    """See `errors`."""
    return errors


def errors(
    fused: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
) -> dict[str, float]:
    """The errors above the dtype's tolerance, of the value and of every input's gradient.

    The reference runs in fp64 on the very same (rounded) inputs; `inputs` may be views.
    """
    leaves = [each.detach().requires_grad_() for each in inputs]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    got, want = fused(*leaves), reference(*exact)
    assert got.shape == want.shape
    grad = draw(*got.shape, seed=99, dtype=got.dtype)
    gradients = torch.autograd.grad(got, leaves, grad)
    wanted = torch.autograd.grad(want, exact, grad.double())
    pairs = [("value", got, want)]
    pairs += [
        (f"gradient {i}", a, b) for i, (a, b) in enumerate(zip(gradients, wanted, strict=True))
    ]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert gradient.dtype == leaf.dtype
        assert gradient.shape == leaf.shape
    found = {name: error(a.detach(), b.detach()) for name, a, b in pairs}
    return {name: e for name, e in found.items() if not e <= TOLERANCE[dtype]}


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Every tensor that is allocated and not filled starts as NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    from unified_latents.kernels.proof.interpreter import exact_products

    with exact_products():
        yield
    torch.use_deterministic_algorithms(False)
