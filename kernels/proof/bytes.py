"""Bytes and launches of one sampler step and one transformer block, fused and not.

Fused kernels are counted by the interpreter's loads and stores. What torch itself runs is counted
an operator at a time: one launch, each input read once, each output written once; views and
allocations cost nothing. Attention of the reference is one launch of a fused softmax, as
`scaled_dot_product_attention` is on a GPU. Wants TRITON_INTERPRET=1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unified_latents.kernels import dispatch
from unified_latents.kernels.attention import rotary_angles
from unified_latents.kernels.noise import Guidance, Keys, Step
from unified_latents.kernels.proof.interpreter import Traffic, counted, exact_products

_FREE = ("empty", "detach", "_unsafe_view", "lift_fresh", "alias")


class Eager(TorchDispatchMode):
    """Counts the launches of torch's own operators; the fused ones are counted elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace == "aten" and not _free(func):
            self.traffic.launches += 1
            self.traffic.loaded += sum(map(nbytes, tree_leaves((args, kwargs))))
            self.traffic.stored += sum(map(nbytes, tree_leaves(result)))
        return result


def _free(func: Any) -> bool:
    """Views and allocations move nothing."""
    aliases = [each.alias_info for each in func._schema.returns]
    view = any(info is not None and not info.is_write for info in aliases)
    return view or func.overloadpacket.__name__.startswith(_FREE)


def nbytes(value: object) -> int:
    """Of a tensor's elements; nothing else is moved."""
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def moved(run: Callable[[], object], *, fused: bool) -> Traffic:
    """The launches and bytes of one call."""
    with dispatch.forced(fused=fused), exact_products(), counted() as own, Eager() as eager:
        run()
    other = eager.traffic
    return Traffic(
        own.loaded + other.loaded, own.stored + other.stored, own.launches + other.launches
    )


@dataclass(frozen=True)
class Streamed:
    """The kernel's keys, and for torch the cheapest noise there is: one launch of randn."""

    keys: Keys

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)


def _noise(rows: int, stage: int) -> Streamed:
    number = torch.arange(rows)
    return Streamed(Keys(number, number, number, stage))


def sampler_step() -> Callable[[], object]:
    """DPM-Solver++ under guidance on 4 rows of 16×32×32, fp32."""
    x_t, conditional, unconditional, previous = (torch.ones(4, 16, 32, 32) for _ in range(4))
    level, noise = torch.zeros(4), _noise(4, 0)
    row = Step(level, torch.tensor([[0.5, 0.5, 0.25, 0.0]]).expand(4, 4))
    guidance = Guidance(unconditional, level + 2)
    return lambda: dispatch.guided_step(
        x_t, conditional, previous, row, noise, guidance, clip=False
    )


def noisy_step() -> Callable[[], object]:
    """The decoder's ancestral step on 4 rows of 3×64×64, fp32, noise included."""
    x_t, v_hat = (torch.ones(4, 3, 64, 64) for _ in range(2))
    level, noise = torch.zeros(4), _noise(4, 1)
    row = Step(level, torch.tensor([[0.5, 0.5, 0.0, 0.25]]).expand(4, 4))
    return lambda: dispatch.guided_step(x_t, v_hat, x_t, row, noise, clip=True)


def block() -> Callable[[], object]:
    """A block forward in bf16 without its matrix products: 256 tokens, width 256, 4 heads."""
    n, length, heads, head = 1, 256, 4, 64
    width = heads * head
    x, branch = (torch.ones(n, length, width, dtype=torch.bfloat16) for _ in range(2))
    qkv = torch.ones(n, length, 3 * width, dtype=torch.bfloat16)
    vectors = torch.ones(n, 6 * width, dtype=torch.bfloat16).chunk(6, -1)
    scale, angles = torch.ones(head, dtype=torch.bfloat16), rotary_angles((16, 16), head)

    def run() -> Tensor:
        q, k, v = qkv.unflatten(2, (3, heads, head)).permute(2, 0, 3, 1, 4)
        dispatch.modulate(x, vectors[0], vectors[1])
        out = dispatch.attention(q, k, v, scale, scale, angles)
        after = dispatch.gated_residual(x, out.transpose(1, 2).flatten(2), vectors[2])
        dispatch.modulate(after, vectors[3], vectors[4])
        return dispatch.gated_residual(after, branch, vectors[5])

    return run


SUBJECTS: dict[str, Callable[[], Callable[[], object]]] = {
    "sampler step, guided, DPM-Solver++ (4 × 16×32×32, fp32)": sampler_step,
    "sampler step, ancestral, clipped (4 × 3×64×64, fp32)": noisy_step,
    "transformer block without its products (256 tokens, width 256, bf16)": block,
}


def table() -> dict[str, dict[str, list[int]]]:
    """Launches and bytes of every subject, fused and unfused."""
    found: dict[str, dict[str, list[int]]] = {}
    with torch.no_grad():
        for name, make in SUBJECTS.items():
            run = make()
            counts = {way: moved(run, fused=way == "fused") for way in ("fused", "unfused")}
            found[name] = {way: [each.launches, each.moved] for way, each in counts.items()}
    return found


if __name__ == "__main__":
    json.dump(table(), sys.stdout)
