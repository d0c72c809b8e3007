from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import Awaken
from unified_latents.models.clips.tiling import Windows, ramp, windowed
from unified_latents.models.config import EncoderConfig, UnifiedConfig
from unified_latents.models.sampling import NoiseKeys, Stage, plan, sample
from unified_latents.models.unified import UnifiedLatents


@pytest.fixture
def clips(tiny: UnifiedConfig) -> UnifiedConfig:
    """Eight frames in four latent ones."""
    return replace(
        tiny,
        size=(8, 16, 16),
        encoder=EncoderConfig((8, 12), (1, 1), (1, 2, 2), ((2, 2, 2),)),
        decoder=replace(tiny.decoder, patch=(1, 2, 2), strides=((2, 1, 1),)),
    )


def draw(
    denoiser: Callable[[Tensor, Tensor], Tensor], config: UnifiedConfig, frames: int
) -> Tensor:
    index = torch.arange(2)
    keys = NoiseKeys(torch.zeros_like(index), index, Stage.DECODE)
    steps = plan(config.image_schedule, 4, "ancestral", to_mean=True)
    shape = (config.image_channels, frames, *config.size[1:])
    with torch.no_grad():
        return sample(denoiser, keys, shape, steps, clip=True)


def test_windows_cover_the_clip_and_share_their_overlap() -> None:
    assert Windows(4, 4, 2).begins == [0]
    assert Windows(16, 4, 2).begins == [0, 2, 4, 6, 8, 10, 12]
    assert Windows(9, 4, 1).begins == [0, 3, 5]
    for total in range(4, 30):
        begins = Windows(total, 4, 2).begins
        assert begins[0] == 0
        assert begins[-1] + 4 == total
        assert all(0 < b - a <= 2 for a, b in pairwise(begins))


@pytest.mark.parametrize(("total", "length", "overlap"), [(3, 4, 1), (8, 4, 4), (8, 4, -1)])
def test_windows_that_do_not_fit(total: int, length: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap < length"):
        Windows(total, length, overlap)


@pytest.mark.parametrize(("total", "overlap"), [(4, 2), (9, 1), (9, 3), (10, 0)])
@pytest.mark.parametrize("stride", [1, 3])
def test_shares_of_all_windows_are_one(total: int, overlap: int, stride: int) -> None:
    """In latent frames and in a picture's: blending what is equal changes nothing."""
    windows = Windows(total, 4, overlap)
    clip = torch.linspace(1, 2, 2 * total * stride * 3).reshape(2, total * stride, 3, 1)
    blended = torch.zeros_like(clip)
    for k in range(len(windows.begins)):
        windows.cut(blended, k).add_(windows.weighed(windows.cut(clip, k), k))
    torch.testing.assert_close(blended, clip)


def test_weights_rise_to_the_middle() -> None:
    assert ramp(6).tolist() == [1, 3, 5, 5, 3, 1]


def test_one_window_is_the_decoder_itself(clips: UnifiedConfig, awaken: Awaken) -> None:
    decoder = awaken(UnifiedLatents(clips)).decoder
    z_0 = torch.randn(2, *clips.latent_shape, generator=torch.Generator().manual_seed(0))
    whole = draw(windowed(decoder, z_0, 4, 2), clips, 8)
    alone = draw(lambda x_t, log_snr: decoder(x_t, log_snr, z_0), clips, 8)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_of_a_denoiser_that_looks_at_single_frames_windows_change_nothing(
    clips: UnifiedConfig, gaussian: Callable[..., nn.Module]
) -> None:
    exact = gaussian(0.5)
    z_0 = torch.zeros(2, 4, 14, 4, 4)
    tiled = draw(windowed(lambda x_t, log_snr, z: exact(x_t, log_snr), z_0, 4, 2), clips, 28)
    torch.testing.assert_close(tiled, draw(exact, clips, 28), rtol=1e-4, atol=1e-5)


def test_the_decoder_never_sees_more_than_a_window(clips: UnifiedConfig, awaken: Awaken) -> None:
    decoder = awaken(UnifiedLatents(clips)).decoder
    seen = []
    decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2]))
    z_0 = torch.randn(2, clips.latent_channels, 16, *clips.grid[1:])
    assert draw(windowed(decoder, z_0, 4, 2), clips, 32).shape[2] == 32
    assert set(seen) == {8}


def test_blended_windows_have_no_seams(clips: UnifiedConfig, awaken: Awaken) -> None:
    """Steps from frame to frame at windows' ends are nearly like any other; abutted windows jump.

    The latent stands still, so that only the decoder's own windows can make a difference.
    """
    decoder = awaken(UnifiedLatents(clips)).decoder
    z_0 = torch.randn(2, clips.latent_channels, 1, *clips.grid[1:]).expand(-1, -1, 16, -1, -1)
    log_snr, x_t = torch.zeros(2), torch.zeros(2, clips.image_channels, 32, 16, 16)

    def jump(overlap: int) -> float:
        with torch.no_grad():
            v_hat = windowed(decoder, z_0, 4, overlap)(x_t, log_snr)
        steps = v_hat.diff(dim=2).square().mean((0, 1, 3, 4)).sqrt()
        ends = [8 * k - 1 for k in (1, 2, 3)]
        return (steps[ends].mean() / steps[8:-8].mean()).item()

    blended, abutted = jump(2), jump(0)
    assert blended < 1.25
    assert abutted > 1.5 * blended
