"""A clip longer than its networks take, between two of its windows: one of them is a row of a pass.

So a long clip takes part in a pass as a short one does, with the memory of a short one, and whoever
waits beside it, or cancels it, waits for one window. A pass that fails may be tried again: only
`take` and `end` change anything, and they cannot fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unified_latents.models.clips.tiling import Windows


def windows(total: int, length: int) -> Windows:
    """Over `total` latent frames, of a network that takes `length`; neighbours share half."""
    return Windows(total, length, length // 2)


def tiles(total: int, length: int, said: int) -> Tiles:
    """The windows of a clip; `ValueError` unless they are as many as its request says."""
    cover = windows(total, length)
    if len(cover.begins) != said:
        raise ValueError(f"{said} windows do not cover {total} latent frames")
    return Tiles(cover)


@dataclass(eq=False)
class Tiles:
    """The windows of one step of a long clip, in their order."""

    windows: Windows
    at: int = 0
    """Windows of this step that are done."""
    _blend: Tensor | None = None

    @property
    def last(self) -> bool:
        """Whether the step ends with the next window."""
        return self.at == len(self.windows.begins) - 1

    def cut(self, clip: Tensor) -> Tensor:
        """The next window of a clip [..., t, h, w], in frames of a latent or of a picture."""
        return self.windows.cut(clip, self.at)

    def weighed(self, part: Tensor) -> Tensor:
        """What the networks made of the next window, times its share."""
        if self._blend is None:
            stride = part.shape[-3] // self.windows.length
            *before, _, height, width = part.shape
            self._blend = part.new_zeros(*before, self.windows.total * stride, height, width)
        return self.windows.weighed(part, self.at)

    def joined(self, weighed: Tensor) -> Tensor:
        """All windows of the step: those that were taken, and the last one."""
        blend = self._kept.clone()
        self.cut(blend).add_(weighed)
        return blend

    def take(self, weighed: Tensor) -> None:
        """The next window is done, and is not the last."""
        self.cut(self._kept).add_(weighed)
        self.at += 1

    def end(self) -> None:
        """The step is done."""
        self._kept.zero_()
        self.at = 0

    @property
    def _kept(self) -> Tensor:
        if self._blend is None:
            raise TypeError("no window was weighed")
        return self._blend
