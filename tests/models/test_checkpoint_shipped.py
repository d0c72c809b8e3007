from __future__ import annotations

import pytest

from unified_latents.models import checkpoint
from unified_latents.models.manifest import MANIFEST

SHIPPED = sorted(path.parent for path in checkpoint.PRETRAINED.glob(f"*/{MANIFEST}"))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_model_is_whole_small_and_repeats_its_canary(folder: object) -> None:
    loaded = checkpoint.load(str(folder))
    assert checkpoint.check_canary(loaded).ok
    assert loaded.base is not None
    assert loaded.card.metrics["digest"] == loaded.manifest.digest
    size = sum(path.stat().st_size for path in checkpoint.find(str(folder)).glob("*.safetensors"))
    assert size <= 24 * 2**20


def test_the_sprites_go_on_from_five_frames() -> None:
    loaded = checkpoint.load("sprites")
    assert loaded.unified.config.known_frames == 5
    assert loaded.unified.config.size == (16, 32, 32)
    assert loaded.base is not None
    assert loaded.base.config.context == loaded.unified.config.latent_context
