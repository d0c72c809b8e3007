"""Which version of an operator runs: Triton's on CUDA, the reference in plain torch elsewhere.

The device of the first tensor decides, so a network may be built on one device and moved to
another, and a graph that `torch.compile` or `torch.export` records holds one version. The fused
package, and Triton with it, is imported by the first call that needs it.

What the fused kernels cannot take (a dtype, a head dim, a mask) is an `UnsupportedError` that
names it and what they can; no call is replaced behind the caller's back. Whoever would rather run
slowly says so with `forced(fused=False)`. Then, and where there is no Triton, CUDA runs the
reference in every call or in none: `fallback` says so, and the engine counts its passes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unified_latents.kernels import attention as plain_attention
from unified_latents.kernels import gelu as plain_gelu
from unified_latents.kernels import loss as plain_loss
from unified_latents.kernels import modulate as plain_modulate
from unified_latents.kernels import noise as plain_noise
from unified_latents.kernels.attention import Context
from unified_latents.kernels.noise import Guidance, Keys, Noise, Step, Stepped

REFERENCE = "reference"


class _Choice:
    """The one switch; an object, because `torch.compile` can guard an attribute."""

    forced: bool | None = None
    available: bool = importlib.util.find_spec("triton") is not None


_CHOICE = _Choice()


def fuses(x: Tensor) -> bool:
    """Whether the fused kernels take tensors of x's device."""
    return _fuses(on_cuda=x.is_cuda)


def _fuses(*, on_cuda: bool) -> bool:
    if _CHOICE.forced is not None:
        return _CHOICE.forced
    return on_cuda and _CHOICE.available


@contextmanager
def forced(*, fused: bool | None) -> Iterator[None]:
    """Inside, in the whole process, the fused kernels or the reference, whatever the device.

    None: the device decides.
    """
    before, _CHOICE.forced = _CHOICE.forced, fused
    try:
        yield
    finally:
        _CHOICE.forced = before


def kernel_set(device: torch.device | str) -> str:
    """The name of what runs on a device: "reference", or "triton", its version and tuned tiles."""
    if not _fuses(on_cuda=_is_cuda(device)):
        return REFERENCE
    from unified_latents.kernels.fused.tuned import label

    tiles = label(torch.device(device))
    return f"triton {importlib.metadata.version('triton')}" + (f", tiles {tiles}" if tiles else "")


def fallback(device: torch.device | str) -> Literal["forced", "no_triton"] | None:
    """Why CUDA runs the reference; None where it does not, and on other devices."""
    if not _is_cuda(device) or _fuses(on_cuda=True):
        return None
    return "no_triton" if _CHOICE.forced is None else "forced"


def _is_cuda(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    angles: Tensor,
    context: Context | None = None,
) -> Tensor:
    """`kernels.attention.attention`."""
    if fuses(q):
        from unified_latents.kernels.fused import attention as fused

        return fused.attention(q, k, v, q_scale, k_scale, angles, context)
    return plain_attention.attention(q, k, v, q_scale, k_scale, angles, context)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`kernels.modulate.modulate`."""
    if fuses(x):
        from unified_latents.kernels.fused import modulate as fused

        return fused.modulate(x, shift, scale)
    return plain_modulate.modulate(x, shift, scale)


def gelu(x: Tensor) -> Tensor:
    """`kernels.gelu.gelu`; torch's own, which is one launch, where kernels are fused."""
    return F.gelu(x, approximate="tanh") if fuses(x) else plain_gelu.gelu(x)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """`kernels.modulate.gated_residual`."""
    if fuses(x):
        from unified_latents.kernels.fused import modulate as fused

        return fused.gated_residual(x, y, gate)
    return plain_modulate.gated_residual(x, y, gate)


def weighted_error(
    v: Tensor, v_hat: Tensor, log_snr: Tensor, rate: Tensor, bias: float | None = None
) -> Tensor:
    """`kernels.loss.weighted_error`."""
    if fuses(v):
        from unified_latents.kernels.fused import loss as fused

        return fused.weighted_error(v, v_hat, log_snr, rate, bias)
    return plain_loss.weighted_error(v, v_hat, log_snr, rate, bias)


def normal(keys: Keys, size: int) -> Tensor:
    """Standard normals of every row's key, fp32 [n, size]."""
    if fuses(keys.seed):
        from unified_latents.kernels.fused import noise as fused

        return fused.normal(keys, size)
    return plain_noise.normal(keys.seed, keys.sample, keys.step, keys.stage, size)


def diffuse(x: Tensor, log_snr: Tensor, keys: Keys) -> Tensor:
    """`kernels.noise.diffuse`."""
    if fuses(x):
        from unified_latents.kernels.fused import noise as fused

        return fused.diffuse(x, log_snr, keys)
    return plain_noise.diffuse(x, log_snr, keys)


def guided_step(
    x_t: Tensor,
    conditional: Tensor,
    previous: Tensor,
    step: Step,
    noise: Noise,
    guidance: Guidance | None = None,
    *,
    clip: bool,
) -> Stepped:
    """`kernels.noise.guided_step`; the fused kernel makes its noise from the keys."""
    if fuses(x_t):
        from unified_latents.kernels.fused import noise as fused

        return fused.guided_step(x_t, conditional, previous, step, noise, guidance, clip=clip)
    return plain_noise.guided_step(x_t, conditional, previous, step, noise, guidance, clip=clip)
