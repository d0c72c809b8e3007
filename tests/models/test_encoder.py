"""The encoder: deterministic, convolutional, its size by hand."""

from __future__ import annotations

import math

import torch

from tests.models.conftest import Awaken, learns_everywhere
from unified_latents.models.config import EncoderConfig, UnifiedConfig
from unified_latents.models.encoder import Encoder


def encoder(config: UnifiedConfig) -> Encoder:
    return Encoder(config.encoder, config.image_channels, config.latent_channels)


def test_shape_of_pictures_and_clips(any_tiny: UnifiedConfig) -> None:
    z = encoder(any_tiny)(torch.randn(2, *any_tiny.image_shape))
    assert z.shape == (2, *any_tiny.latent_shape)


def test_parameters_by_hand(any_tiny: UnifiedConfig) -> None:
    """Stem, a block of 8, down to 12, a block of 12, norm and the 3-wide output."""
    space = len(any_tiny.size)
    k = 27 if space == 3 else 9
    stride = math.prod(any_tiny.encoder.strides[0])

    def block(width: int) -> int:
        return 2 * (2 * width) + 2 * (k * width * width + width)

    want = (12 * 8 + 8) + block(8) + (stride * 8 * 12 + 12) + block(12) + 24 + (k * 12 * 4 + 4)
    assert sum(p.numel() for p in encoder(any_tiny).parameters()) == want


def test_the_papers_encoder_divides_by_sixteen() -> None:
    """512² → 32×32: patch 2 and three strides of 2."""
    half = (2, 2)
    config = EncoderConfig((128, 256, 512, 512), (2, 2, 2, 3), half, (half, half, half))
    assert config.downsampling == (16, 16)


def test_deterministic_even_in_training(tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, x = awaken(encoder(tiny)).train(), torch.randn(2, *tiny.image_shape)
    assert torch.equal(net(x), net(x))


def test_rows_do_not_see_each_other(any_tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, x = awaken(encoder(any_tiny)), torch.randn(3, *any_tiny.image_shape)
    before = net(x)
    x[1] = torch.randn(any_tiny.image_shape)
    after = net(x)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


def test_one_by_one_equals_batched(tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, x = awaken(encoder(tiny)), torch.randn(3, *tiny.image_shape)
    alone = torch.cat([net(row[None]) for row in x])
    torch.testing.assert_close(net(x), alone, rtol=1e-5, atol=1e-5)


def test_another_size_is_the_same_space(tiny: UnifiedConfig, awaken: Awaken) -> None:
    assert awaken(encoder(tiny))(torch.randn(1, 3, 24, 32)).shape == (1, 4, 6, 8)


def test_every_parameter_learns(any_tiny: UnifiedConfig) -> None:
    net, x = encoder(any_tiny), torch.randn(4, *any_tiny.image_shape)
    learns_everywhere(net, lambda: net(x))
