"""Clips longer than a decoder was trained on: windows over time that share one x_t.

At every step the decoder predicts each window of its own length alone; where windows overlap, the
predictions are blended by weights that fall linearly towards a window's ends. All windows read one
x_t at one λ, so blending v̂ is blending x̂: the sampler sees one prediction, and nothing is stitched
afterwards. Networks need the memory of one window whatever the length; only the clip itself grows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def starts(total: int, length: int, overlap: int) -> list[int]:
    """Where windows of `length` begin, so that they cover `total`; neighbours share ≥ `overlap`.

    `ValueError` unless 0 ≤ overlap < length ≤ total.
    """
    if not 0 <= overlap < length <= total:
        raise ValueError(
            f"0 ≤ overlap < length ≤ total must hold, got {overlap}, {length} and {total}"
        )
    last = total - length
    return [*range(0, last, length - overlap), last]


def ramp(frames: int) -> Float[Tensor, " t"]:
    """Weights of a window's frames: linear from its ends to its middle, never zero."""
    place = torch.arange(frames)
    return torch.minimum(2 * place + 1, 2 * (frames - place) - 1).float()


def windowed(
    decode: Callable[[Tensor, Tensor, Tensor], Tensor],
    z_0: Float[Tensor, "n z l h w"],
    length: int,
    overlap: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser of a whole clip from `decode(x_t, λ, z_0)`, which takes `length` latent frames.

    `overlap` is in latent frames too. With `length` = l it is `decode` itself.
    """
    begins = starts(z_0.shape[2], length, overlap)

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        stride = x_t.shape[2] // z_0.shape[2]
        weights = ramp(length * stride).to(x_t)[:, None, None]
        blended, total = torch.zeros_like(x_t), x_t.new_zeros(x_t.shape[2], 1, 1)
        for begin in begins:
            place = slice(begin * stride, (begin + length) * stride)
            latent = z_0[:, :, begin : begin + length]
            blended[:, :, place] += weights * decode(x_t[:, :, place], log_snr, latent)
            total[place] += weights
        return blended / total

    return denoise
