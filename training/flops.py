"""Model FLOP utilisation: the products that the model needs, over what the machine can do.

FLOPs count linear, convolution and attention products (1 MAC = 2 FLOP); a training step is
3 x forward. The peak is measured, not read from a data sheet: the best `torch.mm` in fp32 on the
same device and threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unified_latents.kernels.dispatch import forced

PEAK_SIZES = (1024, 2048)


def forward_flops(forward: Callable[[], object]) -> int:
    """FLOPs of one call; attention is counted as its two products, so in the reference's form."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), forced(fused=False), sdpa_kernel(SDPBackend.MATH), counter:
        forward()
    return int(counter.get_total_flops())


def mm_flops_per_second(size: int, device: torch.device) -> float:
    """FLOP/s of one fp32 `torch.mm` of size^3."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty_like(a)
    _wait(device)
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(device)
    return float(2 * size**3 / (time.perf_counter() - start))


def peak_flops(device: torch.device, sizes: Sequence[int] = PEAK_SIZES, repeats: int = 3) -> float:
    """The best FLOP/s over `sizes`, each measured `repeats` times after one to warm up."""
    for size in sizes:
        mm_flops_per_second(size, device)
    return max(mm_flops_per_second(size, device) for size in sizes for _ in range(repeats))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
