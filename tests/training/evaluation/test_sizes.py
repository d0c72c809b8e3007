"""The table of sizes: FLOPs by hand, and what the command prints."""

from __future__ import annotations

import sys

import pytest

from unified_latents.models.config import TransformerConfig
from unified_latents.models.presets import (
    CAPTIONS,
    fashion,
    imagenet_512,
    paper_base,
    small_base,
    text_bases,
)
from unified_latents.training import __main__ as commands
from unified_latents.training.evaluation.sizes import base_size, text_size, unified_sizes


def stack(tokens: int, config: TransformerConfig, depth: int, conditioning: int) -> int:
    """adaLN on one vector; 12 width² multiply-adds a token, and q kᵀ and its product with v."""
    w = config.width
    products = conditioning * 6 * w + 12 * tokens * w * w + 2 * tokens * tokens * w
    return 2 * depth * products


def test_the_papers_prior_by_hand() -> None:
    """Positions and the level's two layers included."""
    prior = {size.network: size for size in unified_sizes(imagenet_512())}["prior"]
    w, n, z = 1024, 32 * 32, 32
    ends = 2 * (n * z * w + 16 * n * w + 128 * w + w * w + w * 2 * w + n * w * z)
    assert prior.flops == ends + stack(n, imagenet_512().prior, 8, w)


@pytest.mark.parametrize("paper", [True, False])
def test_a_base_model_by_hand(paper: bool) -> None:
    config = paper_base(imagenet_512(), 1000) if paper else small_base(fashion(), 10)
    o, i, z = config.outer.width, config.inner.width, config.latent_shape[0]
    n = config.latent_shape[1] * config.latent_shape[2]
    m = n // 4
    ends = n * z * o + 16 * n * o + 16 * m * i + 128 * i + i * i + i * 2 * o + n * o * z
    joints = m * 4 * o * i * 2 + n * 2 * o * o
    want = 2 * (ends + joints)
    want += stack(n, config.outer, config.outer.depth, i)
    want += stack(m, config.inner, config.inner.depth, i)
    assert base_size(config).flops == want


@pytest.mark.parametrize("gflop", [100, 300, 970])
def test_a_text_base_by_hand(gflop: int) -> None:
    """Within 3 % of the paper's budget; each block has the caption's keys and values too."""
    config = text_bases(imagenet_512())[gflop]
    o, i, z, t = config.outer.width, config.inner.width, 32, CAPTIONS
    n, m = 32 * 32, 16 * 16
    ends = n * z * o + 16 * n * o + 16 * m * i + 128 * i + i * i + i * 2 * o + n * o * z
    joints = m * 4 * o * i * 2 + n * 2 * o * o
    captions = (t.length * t.width + t.pooled) * i
    want = 2 * (ends + joints + captions)
    for tokens, stage in ((n, config.outer), (m, config.inner)):
        beside = t.length * i * 2 * stage.width + 2 * tokens * t.length * stage.width
        want += stack(tokens, stage, stage.depth, i) + 2 * stage.depth * beside
    assert text_size(config, CAPTIONS).flops == want
    assert want == pytest.approx(gflop * 1e9, rel=0.03)


def test_the_command_names_every_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ul-train", "presets"])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert not ended.value.code
    told = capsys.readouterr().out
    for expected in (
        "imagenet-512-small",
        "imagenet-512-text-970",
        "kinetics-600",
        "32×32×32",
        "4×16×16×32",
        "1,259,920",
    ):
        assert expected in told
