from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.conftest import Awaken
from unified_latents.models.config import BaseConfig, TextConfig
from unified_latents.models.presets import CAPTIONS, imagenet_512, text_bases
from unified_latents.models.text import Caption, TextBaseModel

TEXT = TextConfig(width=12, pooled=6, length=5)


def caption(n: int, tokens: int = 5, seed: int = 0) -> Caption:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, tokens, TEXT.width, generator=generator)
    pooled = torch.randn(n, TEXT.pooled, generator=generator)
    return Caption(states, pooled, torch.ones(n, tokens, dtype=torch.bool))


@pytest.fixture
def model(tiny_base: BaseConfig, awaken: Awaken) -> TextBaseModel:
    return awaken(TextBaseModel(tiny_base, TEXT))


def noisy(model: TextBaseModel, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, *model.config.latent_shape), torch.linspace(-3, 3, n)


def test_every_word_and_the_whole_reach_the_prediction(model: TextBaseModel) -> None:
    z_t, log_snr = noisy(model, 1)
    given = caption(1)
    with torch.no_grad():
        plain = model(z_t, log_snr, given)
        for k in range(5):
            changed = given.tokens.clone()
            changed[:, k] += 1
            assert not torch.allclose(model(z_t, log_snr, given._replace(tokens=changed)), plain)
        whole = given._replace(pooled=given.pooled + 1)
        assert not torch.allclose(model(z_t, log_snr, whole), plain)


def test_a_masked_token_is_not_there(model: TextBaseModel) -> None:
    z_t, log_snr = noisy(model, 2)
    given = caption(2)
    mask = given.mask.clone()
    mask[:, 3:] = False
    short = Caption(given.tokens[:, :3], given.pooled, given.mask[:, :3])
    with torch.no_grad():
        masked = model(z_t, log_snr, given._replace(mask=mask))
        assert torch.allclose(masked, model(z_t, log_snr, short), atol=1e-5)


def test_no_caption_is_finite_and_the_same_for_all(model: TextBaseModel) -> None:
    z_t, log_snr = noisy(model, 2)
    with torch.no_grad():
        one = model(z_t, log_snr, caption(2, seed=1).nothing())
        other = model(z_t, log_snr, caption(2, seed=2).nothing())
    assert one.isfinite().all()
    assert torch.equal(one, other)


def test_a_model_of_captions_wants_one(model: TextBaseModel) -> None:
    z_t, log_snr = noisy(model, 1)
    with torch.no_grad():
        alone = model.denoise(z_t, model.level(log_snr))
    assert alone.shape == z_t.shape
    with pytest.raises((TypeError, AttributeError)):
        model(z_t, log_snr)


def test_rows_do_not_see_each_other(model: TextBaseModel) -> None:
    z_t, log_snr = noisy(model, 3)
    given = caption(3)
    with torch.no_grad():
        together = model(z_t, log_snr, given)
        last = Caption(*(part[2:] for part in given))
        assert torch.allclose(together[2:], model(z_t[2:], log_snr[2:], last), atol=1e-5)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block(width: int, conditioning: int) -> int:
    """adaLN, qkv, keys and values of the text, two scales of 64, output, perceptron."""
    attention = linear(width, 3 * width) + 2 * 64 + linear(width, width)
    text = linear(conditioning, 2 * width)
    mlp = linear(width, 4 * width) + linear(4 * width, width)
    return linear(conditioning, 6 * width) + attention + text + mlp


@pytest.mark.parametrize("gflop", [100, 300, 970])
def test_the_papers_text_bases_by_hand(gflop: int) -> None:
    config = text_bases(imagenet_512())[gflop]
    with torch.device("meta"):
        model = TextBaseModel(config, CAPTIONS)
    outer, inner, merged = config.outer, config.inner, 4 * config.outer.width
    e = inner.width
    blocks = outer.depth * block(outer.width, e) + inner.depth * block(e, e)
    ends = linear(32, outer.width) + linear(outer.width, 32) + linear(e, 2 * outer.width)
    level, text = linear(128, e) + linear(e, e), 2 * linear(CAPTIONS.width, e)
    joins = linear(merged, e) + linear(e, merged) + linear(2 * outer.width, outer.width)
    positions = 16 * (outer.width + e)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == blocks + ends + level + text + joins + positions


def test_the_captions_shape_is_checked() -> None:
    with pytest.raises(ValueError, match="length must be at least 1"):
        replace(TEXT, length=0)
