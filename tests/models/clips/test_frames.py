from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.conftest import Awaken
from unified_latents.models.base import BaseModel, guided
from unified_latents.models.clips import frames
from unified_latents.models.config import BaseConfig, EncoderConfig, UnifiedConfig
from unified_latents.models.sampling import combined
from unified_latents.models.unified import Draws, UnifiedLatents


@pytest.fixture
def clips(tiny: UnifiedConfig) -> UnifiedConfig:
    """Clips of four frames, of which two may be known."""
    return replace(
        tiny,
        size=(4, 16, 16),
        encoder=EncoderConfig((8, 12), (1, 1), (1, 2, 2), ((2, 2, 2),)),
        decoder=replace(tiny.decoder, patch=(1, 2, 2), strides=((2, 1, 1),)),
        known_frames=2,
    )


@pytest.fixture
def clips_base(clips: UnifiedConfig, tiny_base: BaseConfig) -> BaseConfig:
    return replace(
        tiny_base,
        latent_shape=clips.latent_shape,
        stride=(1, 2, 2),
        context=clips.latent_context,
    )


def clip(config: UnifiedConfig, n: int = 2) -> torch.Tensor:
    return torch.rand(n, *config.image_shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_the_decoder_is_shown_frames_then_zeros_and_where_they_are() -> None:
    known = torch.randn(2, 3, 2, 4, 5)
    seen = frames.shown(known, 5)
    assert seen.shape == (2, 4, 5, 4, 5)
    assert torch.equal(seen[:, :3, :2], known)
    assert seen[:, :3, 2:].eq(0).all()
    assert seen[:, 3, :2].eq(1).all()
    assert seen[:, 3, 2:].eq(0).all()


def test_a_held_clip_stands_still_after_the_last_known_frame() -> None:
    known = torch.randn(2, 3, 2, 4, 5)
    still = frames.held(known, 5)
    assert torch.equal(still[:, :, :2], known)
    assert all(torch.equal(still[:, :, k], known[:, :, 1]) for k in (2, 3, 4))


def test_contexts_read_the_known_frames_alone(clips: UnifiedConfig, awaken: Awaken) -> None:
    unified, x = awaken(UnifiedLatents(clips)), clip(clips)
    whole, cut = unified.contexts(x), unified.contexts(x[:, :, :2])
    assert torch.equal(whole.base[0], cut.base[0])
    assert torch.equal(whole.decoder[0], cut.decoder[0])
    assert whole.base[0].shape == (2, clips.latent_channels + 1, *clips.grid)
    assert torch.equal(whole.base[0][:, :-1], unified.encoder(frames.held(x[:, :, :2], 4)))
    assert whole.base[0][:, -1].eq(1).all()


def test_a_picture_has_no_contexts(tiny: UnifiedConfig) -> None:
    assert UnifiedLatents(tiny).contexts(torch.zeros(1, *tiny.image_shape)) == frames.NOTHING


def test_nothing_known_is_zeros(
    clips: UnifiedConfig, clips_base: BaseConfig, awaken: Awaken
) -> None:
    unified, base, x = awaken(UnifiedLatents(clips)), awaken(BaseModel(clips_base), 1), clip(clips)
    log_snr, label = torch.tensor([-1.0, 2.0]), torch.tensor([0, 3])
    z = torch.randn(2, *clips.latent_shape, generator=torch.Generator().manual_seed(1))
    known = unified.contexts(x)
    decode, denoise = unified.decoder, base
    nothing = [torch.zeros_like(part) for part in known.decoder]
    assert torch.equal(decode(x, log_snr, z), decode(x, log_snr, z, *nothing))
    assert not torch.allclose(decode(x, log_snr, z), decode(x, log_snr, z, *known.decoder))
    nothing = [torch.zeros_like(part) for part in known.base]
    assert torch.equal(denoise(z, log_snr, label), denoise(z, log_snr, label, *nothing))
    assert not torch.allclose(denoise(z, log_snr, label), denoise(z, log_snr, label, *known.base))


def test_too_much_context_is_an_error(tiny: UnifiedConfig, clips: UnifiedConfig) -> None:
    for config, given in ((tiny, 1), (clips, 2)):
        decoder, z = UnifiedLatents(config).decoder, torch.zeros(1, *config.latent_shape)
        x = torch.zeros(1, *config.image_shape)
        context = [torch.zeros(1, 4, *config.size)] * given
        with pytest.raises(ValueError, match="zip"):
            decoder(x, torch.zeros(1), z, *context)


def test_the_decoder_is_shown_frames_where_the_draw_says(
    clips: UnifiedConfig, awaken: Awaken
) -> None:
    """No other row's loss depends on the draw."""
    unified, x = awaken(UnifiedLatents(clips)), clip(clips, 4)
    draws = Draws.sample(clips, 4, torch.Generator().manual_seed(0))
    some = unified.losses(x, replace(draws, shown=torch.tensor([0.0, 1.0, 0.0, 1.0])))
    none = unified.losses(x, replace(draws, shown=torch.zeros(4)))
    assert (some.image == none.image).tolist() == [True, False, True, False]
    assert torch.equal(some.latent, none.latent)


def test_half_of_the_rows_are_shown_their_frames(clips: UnifiedConfig) -> None:
    shown = Draws.sample(clips, 1000, torch.Generator().manual_seed(0)).shown
    assert shown.mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(shown.tolist()) == {0.0, 1.0}


def test_guidance_leads_away_from_the_null_class_with_nothing_known(
    clips_base: BaseConfig, clips: UnifiedConfig, awaken: Awaken
) -> None:
    base, z = awaken(BaseModel(clips_base)), torch.randn(2, *clips.latent_shape)
    log_snr, label = torch.zeros(2), torch.tensor([0, 2])
    known = torch.randn(2, *clips.latent_context, *clips.grid)
    got = combined(guided(base, label, 3.0, context=(known,))(z, log_snr))
    null = torch.full_like(label, clips_base.classes)
    conditional, unconditional = base(z, log_snr, label, known), base(z, log_snr, null)
    want = unconditional + 3 * (conditional - unconditional)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("known", [-1, 4])
def test_known_frames_outside_the_clip(clips: UnifiedConfig, known: int) -> None:
    with pytest.raises(ValueError, match=r"known_frames must lie in 0 … 3"):
        replace(clips, known_frames=known)


def test_a_picture_knows_no_frames(tiny: UnifiedConfig) -> None:
    with pytest.raises(ValueError, match=r"known_frames must lie in 0 … 0"):
        replace(tiny, known_frames=1)
