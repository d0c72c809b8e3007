"""Sets of a few pictures, recipes that train on them in seconds, and a checkpoint to measure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch import nn

from unified_latents.models import checkpoint
from unified_latents.models.base import BaseModel
from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.manifest import Card, DataSource, Defaults, Preprocessing
from unified_latents.models.schedule import CosineSchedule, LinearSchedule
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.data.card import Row, write_set
from unified_latents.training.data.sets import DataSet, load
from unified_latents.training.recipes import EncoderWarmup, Stage1Recipe, Stage2Recipe, Training

FEW = Defaults(base_steps=3, decode_steps=3)
LABELS = ("dark", "middle", "bright")
SHAPES = ("circle", "square", "cross")


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


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of gray clips of four 16×16 frames, each brighter than the last."""
    folder = tmp_path_factory.mktemp("clips")

    def rows(count: int) -> Iterator[Row]:
        for i in range(count):
            levels = np.arange(4, dtype=np.uint8) * 40 + 10 * (i % 6)
            yield Row(Image.fromarray(np.broadcast_to(levels.repeat(16)[:, None], (64, 16)) + 0), 0)

    about = {"name": "dawn", "source": "this test", "licence": "CC0-1.0", "channels": 1}
    shape = {"image_size": (16, 16), "content_size": (16, 16), "frames": 4}
    rest = {"mode": "L", "background": 0, "fit": "pad", "labels": ("dawn",)}
    write_set(folder, {"train": rows(14), "test": rows(6)}, **(about | shape | rest))
    return folder


@pytest.fixture
def pictures(pictures_folder: Path) -> DataSet:
    return load(pictures_folder)


@pytest.fixture
def training() -> Training:
    return Training(steps=10, batch=6, log_every=3, grid_every=6, seed=7)


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
    return Stage1Recipe("tiny", tiny, training, EncoderWarmup(2, 4), FEW)


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
    return Stage2Recipe("tiny", base, training, defaults=replace(FEW, guidance=1.5))


@pytest.fixture
def unified_config() -> UnifiedConfig:
    """1×16×16 pictures in 2×4×4 latents."""
    transformer = TransformerConfig(width=16, depth=1, head_dim=8)
    return UnifiedConfig(
        name="tiny",
        image_channels=1,
        size=(16, 16),
        latent_channels=2,
        encoder=EncoderConfig((8, 12), (1, 1), (2, 2), ((2, 2),)),
        prior=transformer,
        decoder=DecoderConfig((8,), 1, (2, 2), ((2, 2),), transformer),
        latent_schedule=LinearSchedule(-10.0, 5.0),
        image_schedule=CosineSchedule(-10.0, 10.0),
        loss_factor=5.0,
        decoder_bias=2.0,
    )


@pytest.fixture
def base_config(unified_config: UnifiedConfig) -> BaseConfig:
    return BaseConfig(
        name="tiny",
        latent_shape=unified_config.latent_shape,
        outer=TransformerConfig(width=16, depth=2, head_dim=8),
        inner=TransformerConfig(width=16, depth=1, head_dim=8),
        stride=(2, 2),
        classes=len(SHAPES),
        schedule=unified_config.latent_schedule,
        bias=0.0,
    )


def _stir(module: nn.Module) -> None:
    """Fresh networks end in zeros; these answer to their inputs."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def _set_of_shapes(folder: Path, train: int, test: int) -> Path:
    """Gray 12×12 shapes with noise, padded to 16×16; the label is the shape."""
    generator = np.random.default_rng(3)

    def row(k: int) -> Row:
        y, x = np.mgrid[-1:1:12j, -1:1:12j]
        shape = (x**2 + y**2 < 0.7, (abs(x) < 0.7) & (abs(y) < 0.7), abs(abs(x) - abs(y)) < 0.2)
        pixels = 180.0 * shape[k % 3] + generator.integers(0, 60, (12, 12))
        return Row(Image.fromarray(np.pad(pixels.astype(np.uint8), 2)), k % 3)

    write_set(
        folder,
        {"train": map(row, range(train)), "test": map(row, range(test))},
        name="shapes",
        source="a generator",
        licence="CC0",
        image_size=(16, 16),
        content_size=(12, 12),
        channels=1,
        mode="L",
        background=0,
        fit="pad",
        labels=SHAPES,
    )
    return folder


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A prepared set of 300 training and 10 test pictures."""
    return _set_of_shapes(tmp_path / "shapes", 300, 10)


@pytest.fixture
def save_tiny(
    tmp_path: Path, unified_config: UnifiedConfig, base_config: BaseConfig
) -> Callable[[str, bool], Path]:
    """Saves an untrained checkpoint for `shapes` by name, with or without a base model."""

    def save(name: str, with_base: bool) -> Path:
        unified, base = UnifiedLatents(unified_config), BaseModel(base_config)
        _stir(unified)
        _stir(base)
        card = Card(
            name=name,
            labels=SHAPES,
            preprocessing=Preprocessing("L", "pad", 0),
            data=DataSource("shapes", "a generator", "CC0"),
            licence="CC0",
            defaults=Defaults(base_steps=3, decode_steps=2, guidance=1.5),
        )
        checkpoint.save(tmp_path / name, unified, base if with_base else None, card)
        return tmp_path / name

    return save


class Fixed(nn.Module):
    """An encoder that has its latents ready."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.latents[: len(x)]


def interrupt_at_look(patch: pytest.MonkeyPatch, stage: type[Any]) -> None:
    """Ctrl-C when a stage next looks at held-out pictures; the look is finished."""
    held_out = stage.held_out

    def interrupted(self: Any, average: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        figures: dict[str, float] = held_out(self, average)
        return figures

    patch.setattr(stage, "held_out", interrupted)
