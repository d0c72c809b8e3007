from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unified_latents.models.base import BaseModel
from unified_latents.service.bench.direct import Contest
from unified_latents.service.bench.rival import Rival, flops
from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.stepper.catalogue import load


@pytest.fixture(scope="module")
def contest(tiny: Path) -> Contest:
    return Contest(load(Checkpoint("bench", str(tiny)), "cpu"))


def test_the_rival_has_our_shape(contest: Contest) -> None:
    config = contest.base.config
    rival = Rival(config)
    blocks = rival.network.transformer_blocks
    assert len(blocks) == config.outer.depth + config.inner.depth
    assert rival.network.pos_embed.pos_embed.shape[1:] == (16, config.outer.width)
    z = torch.randn(3, *config.latent_shape)
    null = torch.full((3,), config.classes)
    assert rival(z, torch.linspace(-5, 3, 3), null).shape == z.shape


def test_flops_are_those_of_the_products(contest: Contest) -> None:
    """At the least two for each weight of a product over the tokens that it sees."""
    base: BaseModel = contest.base
    inner = sum(p.numel() for p in base.inner.parameters() if p.ndim == 2)
    modulation = sum(p.numel() for n, p in base.inner.named_parameters() if "modulation.w" in n)
    counted = flops(base, base.config.latent_shape)
    assert counted > 2 * (4 * (inner - modulation) + modulation)
    assert flops(contest.network("rival"), base.config.latent_shape) > counted


@pytest.mark.parametrize("who", ["base", "rival"])
def test_both_are_timed_by_the_same_loop(contest: Contest, who: str) -> None:
    task = {"stage": "latents", "n": 2, "steps": 2, "guidance": 1.5, "who": who}
    with torch.inference_mode():
        assert contest.answer(json.loads(json.dumps(task))) > 0
        assert contest.answer({**task, "stage": "flops"}) > 0
