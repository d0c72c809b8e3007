"""The known frames of a clip, as the two networks that predict the others see them.

The paper conditions on five frames and does not say how [C]. Here both networks get further input
channels, through a layer of their own without bias, so that no known frames are zeros there:

    decoder   the known frames, zeros for those to come, and a mask that is 1 where one is known
    base      E(the known frames, the last one held for the rest of the clip), and ones

A frame is known on the picture's grid, but not on the latent's, where a cell spans several frames;
so the base model reads them by way of a whole clip, which the encoder can take.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Contexts(NamedTuple):
    """Further arguments of the two networks; both empty where nothing is known."""

    base: tuple[Tensor, ...] = ()
    """[n, z + 1, *grid]"""
    decoder: tuple[Tensor, ...] = ()
    """[n, c + 1, *size]"""


NOTHING = Contexts()


def shown(frames: Float[Tensor, "n c k h w"], length: int) -> Float[Tensor, "n d t h w"]:
    """The decoder's context over `length` frames: c channels of frames and one of mask."""
    n, _, known, height, width = frames.shape
    seen = torch.cat((frames, frames.new_ones(n, 1, known, height, width)), 1)
    unseen = seen.new_zeros(n, seen.shape[1], length - known, height, width)
    return torch.cat((seen, unseen), 2)


def held(frames: Float[Tensor, "n c k h w"], length: int) -> Float[Tensor, "n c t h w"]:
    """A clip of `length` frames that stands still after the last known one."""
    return torch.cat(
        (frames, frames[:, :, -1:].expand(-1, -1, length - frames.shape[2], -1, -1)), 2
    )


def marked(latent: Float[Tensor, "n z *g"]) -> Float[Tensor, "n y *g"]:
    """The base model's context from the latent of `held`: a channel of ones is added."""
    return torch.cat((latent, torch.ones_like(latent[:, :1])), 1)
