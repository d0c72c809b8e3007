from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unified_latents.service.bench.direct import forward, generate, timed
from unified_latents.service.engine.messages import (
    Checkpoint,
    Generate,
    Result,
    Trajectory,
)
from unified_latents.service.engine.protocol import Message
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.loop import Loop
from unified_latents.service.stepper.networks.compiled import NetworkName


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("bench", str(tiny)), "cpu")


def test_the_bench_compares_like_with_like(model: Model) -> None:
    """The bare loop makes the very images that the engine makes."""
    sent: list[Message] = []
    loop = Loop({"bench": model}, 32, sent.append)
    base, decode = Trajectory(3, "dpmpp-2m"), Trajectory(3, "ancestral")
    loop.take(Generate(1, "bench", True, 9, 0, 4, 0, base, 1.5, None, decode))
    while loop.busy:
        loop.tick()
    (done,) = (message for message in sent if isinstance(message, Result))
    assert done.images is not None
    with torch.inference_mode():
        bare = generate(model, 4, 3, 1.5, 9, strict=True)
    served = np.frombuffer(done.images.data, np.uint8).reshape(done.images.shape)
    assert np.abs(served.astype(int) - bare.numpy()).max() <= 1


@pytest.mark.parametrize("stage", ["base", "decode", "encode"])
def test_every_stage_can_be_timed(model: Model, stage: NetworkName) -> None:
    shape = model.card.latent_shape if stage != "decode" else (1, 16, 16)
    with torch.inference_mode():
        assert forward(model, stage, 2)().shape == (2, *shape)
        assert timed(model, {"stage": stage, "n": 2, "repeats": 1, "strict": True}) > 0
