"""Presets: the sizes that their docstrings promise, on the meta device."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.presets import (
    fashion,
    imagenet_512,
    kinetics_600,
    paper_base,
    paper_base_small,
    small_32,
    small_64,
    small_base,
    sprites,
)
from unified_latents.models.unified import UnifiedLatents


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_small_32_has_the_parameters_it_says() -> None:
    with torch.device("meta"):
        unified = UnifiedLatents(small_32(1))
    assert millions(unified.encoder) == pytest.approx(0.25, abs=0.02)
    assert millions(unified.prior) == pytest.approx(1.26, abs=0.02)
    assert millions(unified.decoder) == pytest.approx(1.07, abs=0.02)


def test_latents() -> None:
    assert small_32(3).latent_shape == (16, 4, 4)
    assert small_64(3).latent_shape == (16, 8, 8)
    assert fashion().image_shape == (1, 32, 32)
    for config in (fashion(), small_64(3)):
        assert (config.latent_schedule.lambda_min, config.lambda_0) == (-10.0, 5.0)


@pytest.mark.parametrize("side", [32, 64])
def test_the_whole_set_runs(side: int) -> None:
    config = small_32(3) if side == 32 else small_64(3)
    unified, base = UnifiedLatents(config), BaseModel(small_base(config, 10))
    x, log_snr = torch.randn(2, *config.image_shape), torch.zeros(2)
    with torch.no_grad():
        z = unified.encoder(x)
        assert z.shape == (2, *config.latent_shape)
        assert unified.prior(z, log_snr).shape == z.shape
        assert unified.decoder(x, log_snr, z).shape == x.shape
        assert base(z, log_snr, torch.tensor([0, 10])).shape == z.shape


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convolution(inputs: int, outputs: int, taps: int) -> int:
    return taps * inputs * outputs + outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def res_block(width: int, taps: int) -> int:
    """Two norms and two convolutions."""
    return 2 * 2 * width + 2 * convolution(width, width, taps)


def modulated(inputs: int, width: int, taps: int) -> int:
    """… the second norm modulated from 1024, and a 1×1 skip where the width changes."""
    skip = 0 if inputs == width else convolution(inputs, width, 1)
    convolutions = convolution(inputs, width, taps) + convolution(width, width, taps)
    return 2 * inputs + 2 * width + convolutions + linear(1024, 2 * width) + skip


def block(width: int, conditioning: int) -> int:
    """adaLN, qkv, two scales of 64, output, and the perceptron."""
    attention = linear(width, 3 * width) + 2 * 64 + linear(width, width)
    mlp = linear(width, 4 * width) + linear(4 * width, width)
    return linear(conditioning, 6 * width) + attention + mlp


def level(width: int) -> int:
    return linear(128, width) + linear(width, width)


@pytest.fixture(params=["imagenet-512", "kinetics-600"])
def paper(request: pytest.FixtureRequest) -> UnifiedConfig:
    return imagenet_512() if request.param == "imagenet-512" else kinetics_600()


def test_the_papers_encoder_by_hand() -> None:
    """[128, 256, 512, 512] × [2, 2, 2, 3] on 12 values a patch; a 3×3 output to 32 channels."""
    with torch.device("meta"):
        found = count(UnifiedLatents(imagenet_512()).encoder)
    blocks = 2 * res_block(128, 9) + 2 * res_block(256, 9) + 5 * res_block(512, 9)
    down = convolution(128, 256, 4) + convolution(256, 512, 4) + convolution(512, 512, 4)
    ends = convolution(12, 128, 1) + 2 * 512 + convolution(512, 32, 9)
    assert found == blocks + down + ends


def test_the_video_encoder_by_hand() -> None:
    """[128, 256, 512] × [2, 2, 3], every kernel a cube."""
    with torch.device("meta"):
        found = count(UnifiedLatents(kinetics_600()).encoder)
    blocks = 2 * res_block(128, 27) + 2 * res_block(256, 27) + 3 * res_block(512, 27)
    down = convolution(128, 256, 8) + convolution(256, 512, 8)
    assert found == blocks + down + convolution(12, 128, 1) + 2 * 512 + convolution(512, 32, 27)


def test_the_papers_prior_by_hand(paper: UnifiedConfig) -> None:
    """8 blocks of 1024 on 32 channels; 8 position features an axis."""
    with torch.device("meta"):
        found = count(UnifiedLatents(paper).prior)
    ends = linear(32, 1024) + linear(1024, 2 * 1024) + linear(1024, 32)
    positions = 8 * len(paper.size) * 1024
    assert found == ends + positions + level(1024) + 8 * block(1024, 1024)


@pytest.mark.parametrize(
    ("config", "channels", "taps", "cells", "known"),
    [(imagenet_512(), (128, 256, 512), 9, 4, 0), (kinetics_600(), (128, 256), 27, 8, 4)],
)
def test_the_papers_decoder_by_hand(
    config: UnifiedConfig, channels: tuple[int, ...], taps: int, cells: int, known: int
) -> None:
    """Two blocks a stage on each way, `cells` to one on the way down, 8 blocks of 1024 between.

    `known` channels of known frames and their mask, in patches of four pixels, without a bias.
    """
    with torch.device("meta"):
        found = count(UnifiedLatents(config).decoder)
    want = convolution(12 + 32, 128, 1) + 4 * known * 128 + 2 * 128 + convolution(128, 12, taps)
    want += level(1024) + linear(32, 1024) + 8 * len(config.size) * 1024 + 8 * block(1024, 1024)
    for width, deeper in zip(channels, (*channels[1:], 1024), strict=True):
        want += 2 * modulated(width, width, taps) + convolution(width, deeper, cells)
        want += convolution(deeper, width, 1)
        want += modulated(2 * width, width, taps) + modulated(width, width, taps)
    assert found == want


@pytest.mark.parametrize(
    ("make", "widths", "depths"),
    [(paper_base, (512, 1024), (6, 16)), (paper_base_small, (384, 768), (4, 10))],
)
@pytest.mark.parametrize("classes", [600, 1000])
def test_the_papers_base_by_hand(
    make: Callable[[UnifiedConfig, int], BaseConfig],
    widths: tuple[int, int],
    depths: tuple[int, int],
    classes: int,
    paper: UnifiedConfig,
) -> None:
    """Four neighbours in space merge into one token of the inner stage."""
    with torch.device("meta"):
        found = count(BaseModel(make(paper, classes)))
    outer, inner = widths
    want = level(inner) + (classes + 1) * inner + 8 * len(paper.size) * (outer + inner)
    want += linear(32, outer) + linear(inner, 2 * outer) + linear(outer, 32)
    want += linear(4 * outer, inner) + linear(inner, 4 * outer) + linear(2 * outer, outer)
    want += 33 * outer * (paper.known_frames > 0)
    want += depths[0] * block(outer, inner) + depths[1] * block(inner, inner)
    assert found == want


def test_the_papers_latents(paper: UnifiedConfig) -> None:
    """512² → 32×32×32; 16 frames of 128² → 4×16×16; the decoder's tokens lie on that grid."""
    want = (32, 32, 32) if paper.name == "imagenet-512" else (32, 4, 16, 16)
    assert paper.latent_shape == want
    assert paper.decoder_grid == paper.grid
    assert paper.decoder.transformer.dropout == paper_base(paper, 10).inner.dropout == 0.1
    assert (paper.latent_schedule.lambda_min, paper.lambda_0) == (-10.0, 5.0)
    assert -3 <= paper.decoder_bias - 2 * math.log(512 / paper.size[-1]) <= 1


def test_clips_know_five_frames() -> None:
    assert sprites().known_frames == kinetics_600().known_frames == 5
    assert sprites().latent_shape == (16, 4, 4, 4)
    assert sprites().encoder.downsampling == kinetics_600().encoder.downsampling == (4, 8, 8)


def test_the_paper_set_keeps_its_shapes(paper: UnifiedConfig) -> None:
    with torch.device("meta"):
        unified, base = UnifiedLatents(paper), BaseModel(paper_base(paper, 10))
        x, log_snr, label = (
            torch.empty(1, *paper.image_shape),
            torch.empty(1),
            torch.zeros(1).long(),
        )
        z = unified.encoder(x)
        assert z.shape == (1, *paper.latent_shape)
        assert unified.prior(z, log_snr).shape == z.shape
        assert unified.decoder(x, log_snr, z).shape == x.shape
        assert base(z, log_snr, label).shape == z.shape
