"""Clips longer than a network was trained on: windows over time, blended where they overlap.

The decoder predicts each window of its own length alone, at every step, and the predictions are
blended by weights that fall linearly towards a window's ends. All windows read one x_t at one λ, so
blending v̂ is blending x̂: the sampler sees one prediction, and nothing is stitched afterwards. The
encoder's windows are blended in the latent. Networks need the memory of one window whatever the
length; only the clip itself grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Windows of `length` over `total`, both in latent frames; neighbours share ≥ `overlap`.

    `ValueError` unless 0 ≤ overlap < length ≤ total.
    """

    total: int
    length: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.length <= self.total:
            raise ValueError(
                "0 ≤ overlap < length ≤ total must hold, "
                f"got {self.overlap}, {self.length} and {self.total}"
            )

    @property
    def begins(self) -> list[int]:
        """Where they begin."""
        last = self.total - self.length
        return [*range(0, last, self.length - self.overlap), last]

    def cut(self, x: Tensor, k: int) -> Tensor:
        """Window k of [..., t, h, w], in frames of a latent or of a picture: a view."""
        stride = x.shape[-3] // self.total
        return x.narrow(-3, self.begins[k] * stride, self.length * stride)

    def weighed(self, part: Tensor, k: int) -> Tensor:
        """What was made of window k, times its share in each frame: the sum over k is the blend."""
        stride = part.shape[-3] // self.length
        own, begins = ramp(self.length * stride), self.begins
        total = torch.zeros_like(own)
        for begin in begins:
            ahead = (begin - begins[k]) * stride
            if abs(ahead) < len(own):
                first, last = max(0, ahead), len(own) + min(0, ahead)
                total[first:last] += own[first - ahead : last - ahead]
        return part * (own / total).to(part)[:, None, None]


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
    windows = Windows(z_0.shape[2], length, overlap)

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        blended = torch.zeros_like(x_t)
        for k in range(len(windows.begins)):
            part = decode(windows.cut(x_t, k), log_snr, windows.cut(z_0, k))
            windows.cut(blended, k).add_(windows.weighed(part, k))
        return blended

    return denoise
