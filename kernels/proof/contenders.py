"""The fused kernels against what torch offers for the same thing, timed on a GPU.

Every contest is one operator at one size: ours, the reference eager and under `torch.compile`, and
for attention PyTorch's own softmax behind a compiled norm and rotation, by SDPA and by
FlexAttention. The bound is the time that the bytes, or the products, need at the card's own rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unified_latents.kernels import dispatch
from unified_latents.kernels.attention import EPSILON, rotary_angles, rotate
from unified_latents.kernels.noise import Keys, Step

Call = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """One operator at one size: what to call, and the least work there is."""

    name: str
    ways: dict[str, Call]
    nbytes: int
    flops: int


@dataclass(frozen=True)
class Card:
    """What a GPU can do: bytes a second of a copy, and bf16 FLOP a second of a product."""

    bandwidth: float
    rate: float


def _forced(run: Call, *, fused: bool) -> Call:
    def call() -> object:
        with dispatch.forced(fused=fused):
            return run()

    return call


def _compiled(run: Callable[..., object], *inputs: Any) -> Call:
    fast = torch.compile(run, fullgraph=True)

    def call() -> object:
        with dispatch.forced(fused=False):
            return fast(*inputs)

    return call


def _prepared(x: Tensor, scale: Tensor, angles: Tensor) -> Tensor:
    return rotate(F.rms_norm(x, x.shape[-1:], scale, EPSILON), angles)


def _flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    result: Tensor = flex_attention(q, k, v)
    return result


def attention(n: int, heads: int, grid: tuple[int, ...], head: int, device: str) -> Contest:
    """bf16 attention of every position of a grid to every other, forward."""
    length = torch.Size(grid).numel()
    q, k, v = torch.randn(3, n, heads, length, head, device=device).bfloat16()
    scale, angles = torch.ones(head, device=device).bfloat16(), rotary_angles(grid, head).to(device)
    inputs = (q, k, v, scale, scale, angles)

    def with_flex(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, angles: Tensor) -> Tensor:
        return _flex(_prepared(q, a, angles), _prepared(k, b, angles), v)

    def run() -> Tensor:
        return dispatch.attention(*inputs)

    ways = {
        "fused": _forced(run, fused=True),
        "eager, SDPA": _forced(run, fused=False),
        "compiled, SDPA": _compiled(dispatch.attention, *inputs),
        "compiled, FlexAttention": _compiled(with_flex, *inputs),
    }
    name = f"attention {n}×{heads}×{length}×{head} bf16"
    return Contest(name, ways, 4 * q.nbytes, 4 * n * heads * length**2 * head)


def modulate(n: int, length: int, width: int, device: str) -> Contest:
    """bf16 layer norm with shift and scale."""
    x = torch.randn(n, length, width, device=device).bfloat16()
    shift, scale = torch.randn(2, n, width, device=device).bfloat16()
    return _plain(
        f"modulate {n}×{length}×{width} bf16", dispatch.modulate, (x, shift, scale), 2 * x.nbytes
    )


def gated(n: int, length: int, width: int, device: str) -> Contest:
    """bf16 gated residual."""
    x, y = torch.randn(2, n, length, width, device=device).bfloat16()
    gate = torch.randn(n, width, device=device).bfloat16()
    name = f"gated residual {n}×{length}×{width} bf16"
    return _plain(name, dispatch.gated_residual, (x, y, gate), 3 * x.nbytes)


def error(n: int, size: int, device: str) -> Contest:
    """The weighted loss of bf16 predictions."""
    v, v_hat = torch.randn(2, n, size, device=device).bfloat16()
    level, rate = torch.zeros(n, device=device), torch.ones(n, device=device)
    name = f"weighted error {n}×{size} bf16"
    return _plain(name, dispatch.weighted_error, (v, v_hat, level, rate, 1.0), 2 * v.nbytes)


def step(n: int, size: int, device: str) -> Contest:
    """An ancestral sampler step in fp32, noise included."""
    x_t, v_hat = torch.randn(2, n, size, device=device)
    number, level = torch.arange(n, device=device), torch.zeros(n, device=device)
    columns = torch.tensor([[0.5, 0.5, 0.0, 0.25]], device=device).expand(n, 4)
    inputs = (x_t, v_hat, x_t, Step(level, columns), Keys(number, number, number, 1), None)

    def run(*parts: Any) -> object:
        return dispatch.guided_step(*parts, clip=True)

    return _plain(f"sampler step {n}×{size} fp32", run, inputs, 4 * x_t.nbytes)


def _plain(name: str, run: Callable[..., object], inputs: tuple[Any, ...], nbytes: int) -> Contest:
    """Fused, eager and compiled, bounded by memory."""
    ways = {
        "fused": _forced(lambda: run(*inputs), fused=True),
        "eager": _forced(lambda: run(*inputs), fused=False),
        "compiled": _compiled(run, *inputs),
    }
    return Contest(name, ways, nbytes, 0)


def every(device: str) -> list[Contest]:
    """The sizes that are timed."""
    return [
        attention(4, 16, (32, 32), 64, device),
        attention(1, 16, (64, 64), 64, device),
        attention(1, 8, (64, 64), 128, device),
        modulate(8, 1024, 1024, device),
        gated(8, 1024, 1024, device),
        error(16, 3 * 512 * 512, device),
        step(16, 3 * 512 * 512, device),
    ]


def timed(run: Call) -> float:
    """Milliseconds: the median of many launches."""
    from triton.testing import do_bench

    return do_bench(run, return_mode="median")


def contests(
    contests: Iterable[Contest], card: Card, timer: Callable[[Call], float]
) -> list[dict[str, Any]]:
    """Milliseconds of every way, and the bound of the card."""
    found = []
    with torch.no_grad():
        for contest in contests:
            times = {name: timer(run) for name, run in contest.ways.items()}
            seconds = max(contest.nbytes / card.bandwidth, contest.flops / card.rate)
            found.append({"name": contest.name, "ms": times, "bound_ms": 1e3 * seconds})
    return found


def card() -> Card:
    """Measured on this card: a copy, and a bf16 product."""
    a = torch.randn(8192, 8192, device="cuda").bfloat16()
    b = torch.empty_like(a)
    copy = timed(lambda: b.copy_(a))
    product = timed(lambda: torch.mm(a, a, out=b))
    return Card(2 * a.nbytes / (1e-3 * copy), 2 * 8192**3 / (1e-3 * product))


def shown(figures: list[dict[str, Any]]) -> str:
    """A table: microseconds of ours, how many times longer the others take, share of the bound."""
    lines = []
    for each in figures:
        ours = each["ms"]["fused"]
        others = [f"{name} ×{ms / ours:.2f}" for name, ms in each["ms"].items() if name != "fused"]
        share = each["bound_ms"] / ours
        lines.append(
            f"{each['name']}: {1e3 * ours:.1f} µs, {share:.0%} of the bound; " + ", ".join(others)
        )
    return "\n".join(lines)
