"""Configs refuse sizes that do not fit together, and compute the grids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)


def test_shapes(any_tiny: UnifiedConfig) -> None:
    assert any_tiny.image_shape == (3, *any_tiny.size)
    if len(any_tiny.size) == 2:
        assert any_tiny.latent_shape == (4, 4, 4)
        assert any_tiny.decoder_grid == (8, 8)
    else:
        assert any_tiny.latent_shape == (4, 2, 4, 4)
        assert any_tiny.decoder_grid == (2, 8, 8)


def test_lambda_0_is_the_clean_end(tiny: UnifiedConfig) -> None:
    assert tiny.lambda_0 == 5.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (18, 16)}, "does not divide"),
        ({"size": (16,)}, "height"),
        ({"encoder": EncoderConfig((8,), (1,), (2, 2), ())}, "no multiple"),
    ],
)
def test_stage_1_refuses(tiny: UnifiedConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny, **({"decoder": halved(tiny)} | changes))


def halved(config: UnifiedConfig) -> DecoderConfig:
    """A decoder whose transformer runs on 4×4."""
    return replace(config.decoder, strides=((2, 2),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "classes"),
        ({"stride": (3, 2)}, "does not divide"),
        ({"outer": TransformerConfig(16, 3, 8)}, "even"),
    ],
)
def test_stage_2_refuses(tiny_base: BaseConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_base, **changes)


@pytest.mark.parametrize(
    ("width", "head_dim", "dropout"), [(20, 8, 0.0), (15, 5, 0.0), (16, 8, 1.0), (16, 8, -0.1)]
)
def test_transformers_refuse(width: int, head_dim: int, dropout: float) -> None:
    with pytest.raises(ValueError, match=r"width|head_dim|dropout"):
        TransformerConfig(width, 1, head_dim, dropout)


def test_stages_must_match_in_number() -> None:
    with pytest.raises(ValueError, match="blocks"):
        EncoderConfig((8, 8), (1,), (2, 2), ((2, 2),))
    with pytest.raises(ValueError, match="stride"):
        EncoderConfig((8, 8), (1, 1), (2, 2), ())
    with pytest.raises(ValueError, match="stride"):
        DecoderConfig((8,), 1, (2, 2), (), TransformerConfig(16, 1, 8))
