"""The fused loss against the fp64 reference, which equals the models' own integrands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unified_latents.kernels import loss as reference
from unified_latents.kernels.errors import UnsupportedError
from unified_latents.kernels.fused import loss as fused

Compare = Callable[..., dict[str, float]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [None, 1.5])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1), torch.float32),
        ((3, 3, 16, 17), torch.float32),
        ((3, 257, 3), torch.bfloat16),
        ((1, 5000), torch.float16),
    ],
)
def test_loss_equals_fp64(
    compare: Compare, shape: tuple[int, ...], dtype: torch.dtype, bias: float | None
) -> None:
    v, v_hat = (draw(*shape, seed=i).to(dtype) for i in range(2))
    level, rate = draw(shape[0], seed=2) * 3, draw(shape[0], seed=3).exp()

    def fast(v: Tensor, v_hat: Tensor) -> Tensor:
        return fused.weighted_error(v, v_hat, level, rate, bias)

    def slow(v: Tensor, v_hat: Tensor) -> Tensor:
        return reference.weighted_error(v, v_hat, level.double(), rate.double(), bias)

    assert compare(fast, slow, (v, v_hat), dtype) == {}


def test_sums_are_fp32_whatever_the_inputs() -> None:
    """70 000 ones in fp16 would stop at 65 504."""
    v, zero = torch.ones(1, 70_000, dtype=torch.float16), torch.zeros(1, 70_000).half()
    got = fused.weighted_error(v, zero, torch.tensor([80.0]), torch.tensor([2.0]))
    assert got.dtype == torch.float32
    assert got.item() == 70_000


def test_the_compiler_sees_through() -> None:
    v, v_hat = draw(3, 100), draw(3, 100, seed=1).requires_grad_()
    level, rate = draw(3, seed=2), draw(3, seed=3).exp()
    compiled = torch.compile(fused.weighted_error, fullgraph=True, backend="aot_eager")
    eager, got = (run(v, v_hat, level, rate, 1.0) for run in (fused.weighted_error, compiled))
    assert torch.equal(eager, got)
    (a,), (b,) = (torch.autograd.grad(each.sum(), v_hat) for each in (eager, got))
    assert torch.equal(a, b)


def test_operators_keep_torch_library_s_contract() -> None:
    v, v_hat, weight = draw(2, 8).requires_grad_(), draw(2, 8, seed=1).requires_grad_(), draw(2)
    torch.library.opcheck(torch.ops.unified_latents.weighted_error.default, (v, v_hat, weight))


def test_what_is_not_supported_is_named() -> None:
    v, one = draw(2, 8), torch.ones(2)
    with pytest.raises(UnsupportedError, match=r"dtype torch\.float64"):
        fused.weighted_error(v.double(), v.double(), one, one)
    with pytest.raises(UnsupportedError, match=r"shape of log_snr \(3,\) .*use \(2,\)"):
        fused.weighted_error(v, v, torch.ones(3), one)
    with pytest.raises(UnsupportedError, match=r"device of rate meta .*use cpu"):
        fused.weighted_error(v, v, one, one.to("meta"))
    with pytest.raises(UnsupportedError, match=r"shape \(2, 4\) .*use \(2, 8\)"):
        fused.weighted_error(v, v[:, :4], one, one)
    with pytest.raises(UnsupportedError, match=r"shape \(2, 0\) .*1 to 65535 rows"):
        fused.weighted_error(v[:, :0], v[:, :0], one, one)
