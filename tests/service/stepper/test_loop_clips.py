"""Clips in the step loop: known frames reach both networks, and no neighbour changes a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.service.stepper.test_loop import generate, results, run, tensor
from unified_latents.models.base import guided
from unified_latents.models.clips.frames import NOTHING
from unified_latents.models.pixels import from_unit, to_unit
from unified_latents.models.sampling import NoiseKeys, Stage, plan, sample
from unified_latents.service.engine.messages import Array, Checkpoint, Encode, Generate, Trajectory
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.numerics import arithmetic

KNOWN = np.random.default_rng(0).integers(0, 256, (1, 2, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def model(tiny_clips: Path) -> Model:
    return load(Checkpoint("m", str(tiny_clips)), "cpu")


def frames(pixels: Any = KNOWN) -> Array:
    return Array(pixels.shape, "uint8", pixels.tobytes())


def by_hand(model: Model, request: Generate) -> torch.Tensor:
    """The paper's two loops over one sample."""
    assert model.base is not None
    assert request.decode is not None
    unified, config = model.unified, model.unified.config
    identity = torch.tensor([request.seed, 0])
    known = NOTHING
    with torch.inference_mode(), arithmetic(True):
        if request.frames is not None:
            known = unified.contexts(to_unit(tensor(request.frames))[None])
        label = torch.tensor([request.label])
        z_0 = sample(
            guided(model.base, label, request.guidance, request.interval, known.base),
            NoiseKeys(identity[:1], identity[1:], Stage.BASE),
            config.latent_shape,
            plan(config.latent_schedule, request.base.steps, request.base.sampler, to_mean=False),
            clip=False,
        )
        x = sample(
            lambda x_t, log_snr: unified.decoder(x_t, log_snr, z_0, *known.decoder),
            NoiseKeys(identity[:1], identity[1:], Stage.DECODE),
            config.image_shape,
            plan(config.image_schedule, request.decode.steps, "ancestral", to_mean=True),
            clip=True,
        )
    return from_unit(x)


@pytest.mark.parametrize("known", [None, frames()], ids=["nothing", "two frames"])
def test_a_clip_is_the_loop_of_the_paper(model: Model, known: Array | None) -> None:
    request = generate(1, frames=known)
    made = tensor(results(run(model, request))[1].images)
    assert made.shape == (1, 1, 4, 8, 8)
    assert torch.equal(made, by_hand(model, request))


def test_known_frames_change_the_clip(model: Model) -> None:
    other = np.flip(KNOWN, 2).copy()
    requests = [generate(1), generate(2, frames=frames()), generate(3, frames=frames(other))]
    made = {n: end.images for n, end in results(run(model, *requests)).items()}
    assert len({array.data for array in made.values() if array is not None}) == 3


def test_neighbours_of_other_frames_change_nothing(model: Model) -> None:
    requests = [
        generate(1, frames=frames()),
        generate(2, n=3, seed=8),
        generate(3, frames=frames(255 - KNOWN), guidance=1.0, base=Trajectory(3, "ddim")),
    ]
    together = results(run(model, *requests))
    for request in requests:
        alone = results(run(model, request))[request.id]
        assert together[request.id].images == alone.images


def test_a_clip_is_encoded(model: Model) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 4, 8, 8), np.uint8)
    request = Encode(1, "m", True, 7, frames(pixels), "z_clean", 2)
    end = results(run(model, request))[1]
    assert tensor(end.latents).shape == (1, 4, 2, 2, 2)
    assert end.bitrate is not None


def test_the_card_says_how_many_frames_may_be_known(model: Model) -> None:
    assert (model.card.size, model.card.known_frames) == ((4, 8, 8), 2)
