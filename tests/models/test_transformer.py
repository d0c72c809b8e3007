"""Transformer blocks: identity at the start, dropout, positions, hand-summed parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.conftest import Awaken
from unified_latents.kernels.attention import rotary_angles
from unified_latents.models.config import TransformerConfig
from unified_latents.models.transformer import Transformer

_CONFIG = TransformerConfig(width=16, depth=2, head_dim=8)
_ANGLES = rotary_angles((2, 3), 8)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 6, 16), torch.randn(4, 10)


def test_starts_as_the_identity() -> None:
    x, c = inputs()
    assert torch.equal(Transformer(_CONFIG, 2, 10)(x, c, _ANGLES), x)


def test_parameters_by_hand() -> None:
    """A block: modulation 10·96 + 96, qkv 16·48 + 48, two scales, out, and the two-layer MLP."""
    block = (10 * 96 + 96) + (16 * 48 + 48) + 2 * 8 + (16 * 16 + 16) + (16 * 64 + 64 + 64 * 16 + 16)
    got = sum(p.numel() for p in Transformer(_CONFIG, 3, 10).parameters())
    assert got == 3 * block


def test_rows_do_not_see_each_other(awaken: Awaken) -> None:
    stack, (x, c) = awaken(Transformer(_CONFIG, 2, 10)), inputs()
    before = stack(x, c, _ANGLES)
    x[2], c[2] = torch.randn(6, 16), torch.randn(10)
    after = stack(x, c, _ANGLES)
    rest = [0, 1, 3]
    assert torch.equal(before[rest], after[rest])
    assert not torch.allclose(before[2], after[2])


def test_tokens_see_each_other_and_their_positions(awaken: Awaken) -> None:
    stack, (x, c) = awaken(Transformer(_CONFIG, 1, 10)), inputs()
    moved = x.clone()
    moved[:, 5] = torch.randn(4, 16)
    assert (stack(x, c, _ANGLES)[:, 0] - stack(moved, c, _ANGLES)[:, 0]).abs().max() > 1e-4
    other = rotary_angles((3, 2), 8)
    assert (stack(x, c, _ANGLES) - stack(x, c, other)).abs().max() > 1e-4


@pytest.mark.parametrize("training", [True, False])
def test_dropout_acts_in_training_only(awaken: Awaken, training: bool) -> None:
    dropping = awaken(Transformer(replace(_CONFIG, dropout=0.5), 2, 10)).train(training)
    plain = Transformer(_CONFIG, 2, 10).train(training)
    plain.load_state_dict(dropping.state_dict())
    x, c = inputs()
    once, twice = dropping(x, c, _ANGLES), dropping(x, c, _ANGLES)
    assert torch.equal(once, twice) is not training
    assert torch.equal(once, plain(x, c, _ANGLES)) is not training
