"""A tiny checkpoint with random weights, a real server on it, and an application without one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from starlette.testclient import TestClient
from torch import nn

from tests.service.bucket import Bucket
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
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

LABELS = ("circle", "Square", "long name")
HALF = (2, 2)


def tiny_config(name: str = "tiny") -> UnifiedConfig:
    """16×16 gray pictures in 4×4×4 latents."""
    return UnifiedConfig(
        name=name,
        image_channels=1,
        size=(16, 16),
        latent_channels=4,
        encoder=EncoderConfig((8, 16), (1, 1), HALF, (HALF,)),
        prior=TransformerConfig(width=32, depth=1, head_dim=16),
        decoder=DecoderConfig(
            (16,), 1, HALF, (HALF,), TransformerConfig(width=32, depth=1, head_dim=16)
        ),
        latent_schedule=LinearSchedule(-10.0, 5.0),
        image_schedule=CosineSchedule(-10.0, 10.0),
        loss_factor=5.0,
        decoder_bias=2.0,
    )


def _wake(module: nn.Module) -> None:
    """Layers that start at zero would make every output independent of its input."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def save_tiny(
    folder: Path, *, seed: int = 0, base: bool = True, config: UnifiedConfig | None = None
) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(seed)
    config = config or tiny_config()
    unified = UnifiedLatents(config)
    width = TransformerConfig(width=32, depth=2, head_dim=16)
    base_config = BaseConfig(
        name="tiny",
        latent_shape=config.latent_shape,
        outer=width,
        inner=width,
        stride=HALF if len(config.size) == 2 else (1, *HALF),
        classes=len(LABELS),
        schedule=config.latent_schedule,
        bias=0.0,
        context=config.latent_context,
    )
    model = BaseModel(base_config) if base else None
    for module in (unified, model):
        if module is not None:
            _wake(module)
    card = Card(
        name="tiny",
        labels=LABELS,
        preprocessing=Preprocessing("L", "pad", 0),
        data=DataSource("noise", "nowhere", "CC0-1.0"),
        licence="Apache-2.0",
        defaults=Defaults(base_steps=4, decode_steps=4, guidance=1.5),
    )
    checkpoint.save(folder, unified, model, card)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of four frames of 8×8, two of which may be known, in 2×2×2 latents."""
    config = replace(
        tiny_config("clips"),
        size=(4, 8, 8),
        encoder=EncoderConfig((8, 16), (1, 1), (1, 2, 2), ((2, 2, 2),)),
        decoder=DecoderConfig(
            (16,), 1, (1, 2, 2), ((2, 2, 2),), TransformerConfig(width=32, depth=1, head_dim=16)
        ),
        known_frames=2,
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "clips"
    return save_tiny(folder, seed=2, config=config)


@pytest.fixture(scope="session")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No base model, and another latent space."""
    return save_tiny(tmp_path_factory.mktemp("checkpoints") / "plain", seed=1, base=False)


class LiveServer:
    """`ul-serve up` in a process of its own."""

    command = "up"

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "unified_latents.service", self.command, *arguments],
            env={**os.environ, "PORT": "0", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.url = self.wait_for(r"listening on (http://\S+)")
        self.http = httpx.Client(base_url=self.url, timeout=120)

    def wait_for(self, pattern: str) -> str:
        """Read the log up to a line that has `pattern`; its first group."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(pattern, line):
                return found.group(1)
        raise AssertionError("the server ended:\n" + "".join(self.log))

    def engine(self) -> psutil.Process:
        """The process that owns the device; the job store is another child."""
        children = psutil.Process(self.process.pid).children()
        (engine,) = [each for each in children if any("stepper" in it for it in each.cmdline())]
        return engine

    def stop(self) -> int:
        """SIGTERM, if nothing has ended it yet; the exit status."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        if not self.process.stderr.closed:
            self.log += self.process.stderr.readlines()
            self.process.stderr.close()
        return self.process.wait(60)


@pytest.fixture(scope="session")
def live(
    tiny: Path, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One real server with one real engine for the whole session."""
    home = tmp_path_factory.mktemp("home")
    server = LiveServer(
        "--model", f"tiny={tiny}", "--model", f"plain={tiny_autoencoder}", UL_HOME=str(home)
    )
    try:
        server.wait_for(r"(ready): torch")
        yield server
    finally:
        server.stop()


@pytest.fixture
def start_server() -> Iterator[Callable[..., LiveServer]]:
    """Starts servers that a test may end as it likes."""
    started: list[LiveServer] = []

    def start(*arguments: str, **environment: str) -> LiveServer:
        started.append(LiveServer(*arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """One server that speaks S3 for the whole session."""
    made = Bucket()
    yield made
    made.close()


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine(fake_card(), fake_card("plain", "autoencoder"))


@pytest.fixture
def client(fake: FakeEngine) -> Iterator[TestClient]:
    """The application around an engine in memory; errors are answers, not exceptions."""
    app = create_app(Settings(max_body=64 * 1024, max_pixels=10_000), fake, Metrics())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client
