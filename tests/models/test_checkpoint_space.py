"""The latent-space id: what a latent means changes it, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.models.conftest import Awaken
from unified_latents.models.base import BaseModel
from unified_latents.models.checkpoint import latent_space, save
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.manifest import Card, DataSource, Preprocessing
from unified_latents.models.schedule import LinearSchedule
from unified_latents.models.unified import UnifiedLatents

_PREPROCESSING = Preprocessing(mode="RGB", fit="pad", background=255)
_CARD = Card("tiny", ("a",), _PREPROCESSING, DataSource("noise", "", "CC0-1.0"), "Apache-2.0")


def space(
    config: UnifiedConfig, awaken: Awaken, preprocessing: Preprocessing = _PREPROCESSING
) -> str:
    return latent_space(awaken(UnifiedLatents(config)).encoder, config, preprocessing)


def test_the_space_changes_with_what_a_latent_means(tiny: UnifiedConfig, awaken: Awaken) -> None:
    """λ(0), channels, encoder strides, and each field of the preprocessing."""
    encoder = replace(tiny.encoder, strides=((4, 4),))
    other_means = [
        space(tiny, awaken),
        space(replace(tiny, latent_schedule=LinearSchedule(-10.0, 4.0)), awaken),
        space(replace(tiny, latent_channels=8), awaken),
        space(replace(tiny, encoder=encoder), awaken),
        space(tiny, awaken, replace(_PREPROCESSING, mode="L")),
        space(tiny, awaken, replace(_PREPROCESSING, fit="crop")),
        space(tiny, awaken, replace(_PREPROCESSING, background=0)),
    ]
    assert len(set(other_means)) == len(other_means)


def test_the_space_changes_with_every_encoder_weight(tiny: UnifiedConfig, awaken: Awaken) -> None:
    unified = awaken(UnifiedLatents(tiny))
    seen = {latent_space(unified.encoder, tiny, _PREPROCESSING)}
    parameters = list(unified.encoder.parameters())
    for parameter in parameters:
        parameter.detach().view(-1)[-1] += 1e-3
        seen.add(latent_space(unified.encoder, tiny, _PREPROCESSING))
    assert len(seen) == 1 + len(parameters)


def test_the_space_does_not_change_with_the_rest(
    tmp_path: Path, tiny: UnifiedConfig, tiny_base: BaseConfig, awaken: Awaken
) -> None:
    """Prior, decoder, base model, the noisy end, the loss's knobs and the grid mean nothing."""
    unified, base = awaken(UnifiedLatents(tiny)), awaken(BaseModel(tiny_base))
    want = save(tmp_path / "a", unified, base, _CARD).latent_space
    for module in (unified.prior, unified.decoder, base):
        for parameter in module.parameters():
            parameter.detach().add_(0.1)
    assert save(tmp_path / "b", unified, base, replace(_CARD, name="b")).latent_space == want
    assert save(tmp_path / "c", unified, None, _CARD).latent_space == want
    elsewhere = replace(
        tiny,
        size=(32, 24),
        latent_schedule=LinearSchedule(-15.0, 5.0),
        loss_factor=9.0,
        decoder_bias=-1.0,
    )
    assert space(elsewhere, awaken) == want
