"""A set of forty pictures, and recipes that train on it in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule
from unified_latents.training.card import Row, write_set
from unified_latents.training.data import DataSet, load
from unified_latents.training.recipes import EncoderWarmup, Stage1Recipe, Stage2Recipe, Training

LABELS = ("dark", "middle", "bright")


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """`accelerate` keeps its settings in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of gray 16×16 pictures in three classes: 40 to train, 12 to test."""
    folder = tmp_path_factory.mktemp("pictures")

    def rows(count: int, seed: int) -> Iterator[Row]:
        noise = torch.Generator().manual_seed(seed)
        for i in range(count):
            level = 40 + 80 * (i % 3)
            pixels = torch.randint(level, level + 40, (16, 16), generator=noise)
            yield Row(Image.fromarray(pixels.to(torch.uint8).numpy()), i % 3)

    write_set(
        folder,
        {"train": rows(40, 0), "test": rows(12, 1)},
        name="noise",
        source="this test",
        licence="CC0-1.0",
        image_size=(16, 16),
        content_size=(16, 16),
        channels=1,
        mode="L",
        background=0,
        fit="crop",
        labels=LABELS,
    )
    return folder


@pytest.fixture
def pictures(pictures_folder: Path) -> DataSet:
    return load(pictures_folder)


@pytest.fixture
def training() -> Training:
    return Training(steps=10, batch=6, log_every=3, grid_every=5, seed=7)


@pytest.fixture
def tiny() -> UnifiedConfig:
    """1×16×16 pictures in 4×4×4 latents."""
    transformer = TransformerConfig(width=16, depth=1, head_dim=8)
    return UnifiedConfig(
        name="tiny",
        image_channels=1,
        size=(16, 16),
        latent_channels=4,
        encoder=EncoderConfig((8, 12), (1, 1), (2, 2), ((2, 2),)),
        prior=transformer,
        decoder=DecoderConfig((8,), 1, (2, 2), ((2, 2),), transformer),
        latent_schedule=LinearSchedule(-10.0, 5.0),
        image_schedule=CosineSchedule(-10.0, 10.0),
        loss_factor=2.0,
        decoder_bias=1.0,
    )


@pytest.fixture
def stage1(tiny: UnifiedConfig, training: Training) -> Stage1Recipe:
    return Stage1Recipe("tiny", tiny, training, EncoderWarmup(2, 4))


@pytest.fixture
def stage2(tiny: UnifiedConfig, training: Training) -> Stage2Recipe:
    base = BaseConfig(
        name="tiny",
        latent_shape=tiny.latent_shape,
        outer=TransformerConfig(width=16, depth=2, head_dim=8),
        inner=TransformerConfig(width=24, depth=1, head_dim=8),
        stride=(2, 2),
        classes=len(LABELS),
        schedule=tiny.latent_schedule,
        bias=0.0,
    )
    return Stage2Recipe("tiny", base, training)
