from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unified_latents.models.config import UnifiedConfig
from unified_latents.models.pixels import to_unit
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training import latents
from unified_latents.training.data.sets import DataSet

CPU = torch.device("cpu")


def test_every_picture_is_encoded_in_its_place(
    pictures: DataSet, tiny: UnifiedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "_BATCH", 16)
    unified = UnifiedLatents(tiny)
    found = latents.encode(pictures.train, unified, CPU)
    batch = pictures.train.batch([0, 17, 39])
    with torch.no_grad():
        torch.testing.assert_close(
            found.z_clean[[0, 17, 39]], unified.encoder(to_unit(batch.image))
        )
    assert torch.equal(found.label[[0, 17, 39]], batch.label)
    assert len(found.z_clean) == len(found.label) == 40


def test_the_second_time_is_read_and_another_checkpoint_is_not(
    pictures: DataSet, tiny: UnifiedConfig, tmp_path: Path
) -> None:
    unified, other = UnifiedLatents(tiny), UnifiedLatents(tiny)
    first = latents.cached(tmp_path, "test", pictures.test, unified, "a" * 64, CPU)
    again = latents.cached(tmp_path, "test", pictures.test, other, "a" * 64, CPU)
    fresh = latents.cached(tmp_path, "test", pictures.test, other, "b" * 64, CPU)
    assert torch.equal(first.z_clean, again.z_clean)
    assert torch.equal(first.label, again.label)
    assert not torch.equal(first.z_clean, fresh.z_clean)
    assert len(list((tmp_path / "latents").iterdir())) == 2
