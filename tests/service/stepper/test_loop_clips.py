"""Clips in the step loop: known frames reach both networks, and no neighbour changes a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.service.stepper.test_loop import generate, results, run, tensor
from unified_latents.models.base import guided
from unified_latents.models.clips.frames import NOTHING
from unified_latents.models.clips.tiling import windowed
from unified_latents.models.pixels import from_unit, to_unit
from unified_latents.models.sampling import NoiseKeys, Stage, plan, sample
from unified_latents.service.engine import lengths
from unified_latents.service.engine.messages import (
    Accepted,
    Array,
    Cancel,
    Checkpoint,
    Decode,
    Encode,
    Error,
    Generate,
    Preview,
    Progress,
    Request,
    Snapshot,
    Trajectory,
)
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.telemetry import Tick
from unified_latents.service.stepper import passes
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.loop import Loop
from unified_latents.service.stepper.networks.numerics import arithmetic
from unified_latents.service.stepper.tiles import windows
from unified_latents.service.stepper.work import noised

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


def decode(number: int, frames: int, n: int = 1, **changes: Any) -> Decode:
    """Latents of clips of so many frames, two to a latent one."""
    latents = torch.Generator().manual_seed(frames)
    z = torch.randn(n, 4, frames // 2, 2, 2, generator=latents)
    array = Array(tuple(z.shape), "float32", z.numpy().tobytes())
    fields = {"first": 0, "kind": "z_clean", "decode": Trajectory(3, "dpmpp-2m"), **changes}
    windows = max(1, frames // 2 - 1)
    return Decode(number, "m", True, 7, z=array, windows=windows, **fields)


def by_windows(model: Model, request: Decode) -> torch.Tensor:
    """`windowed` over the paper's loop, for the request's first sample."""
    unified, config = model.unified, model.unified.config
    identity = torch.tensor([request.seed, 0])
    z = tensor(request.z)[:1]
    with torch.inference_mode(), arithmetic(True):
        z_0 = noised(model, z[0], request.seed, 0)[None]
        nothing = torch.zeros(1, *config.image_context, *config.size)
        x = sample(
            windowed(lambda x, log_snr, z: unified.decoder(x, log_snr, z, nothing), z_0, 2, 1),
            NoiseKeys(identity[:1], identity[1:], Stage.DECODE),
            (1, 2 * z.shape[2], 8, 8),
            plan(config.image_schedule, request.decode.steps, request.decode.sampler, to_mean=True),
            clip=True,
        )
    return from_unit(x)


@pytest.mark.parametrize("frames", [6, 10, 16])
def test_a_long_clip_is_decoded_by_windows(model: Model, frames: int) -> None:
    sent = run(model, decode(1, frames))
    made = tensor(results(sent)[1].images)
    assert made.shape == (1, 1, frames, 8, 8)
    assert torch.equal(made, by_windows(model, decode(1, frames)))
    told = [message for message in sent if isinstance(message, Progress)]
    steps = 3 * (frames // 2 - 1)
    assert [each.done for each in told] == list(range(1, steps + 1))
    assert {each.steps for each in told} == {steps}


def test_a_pass_holds_one_window_of_a_long_clip(model: Model) -> None:
    ticks = [m for m in run(model, decode(1, 16)) if isinstance(m, Tick)]
    assert {tick.conditional_rows for tick in ticks} == {1}


def test_clips_of_all_lengths_share_passes_and_change_nothing(model: Model) -> None:
    requests: list[Request] = [
        decode(1, 4),
        decode(2, 10, n=2),
        decode(3, 6, decode=Trajectory(5, "ancestral")),
        generate(4, frames=frames()),
    ]
    together = run(model, *requests)
    assert max(m.samples for m in together if isinstance(m, Tick)) >= 4
    for request in requests:
        alone = results(run(model, request))[request.id]
        assert results(together)[request.id].images == alone.images


def test_a_pass_that_fails_takes_no_window_twice(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = results(run(model, decode(1, 10), decode(2, 4)))
    broken, real = iter(range(100)), passes._move

    def failing(*given: Any, **how: Any) -> Any:
        if next(broken) % 3 == 0:
            raise RuntimeError("once")
        return real(*given, **how)

    monkeypatch.setattr(passes, "_move", failing)
    stormy = results(run(model, decode(1, 10), decode(2, 4)))
    assert next(broken) > 6  # three steps of each, and those that failed
    assert stormy == calm


def test_a_cancelled_long_clip_leaves_between_two_windows(model: Model) -> None:
    sent: list[Message] = []
    loop = Loop({"m": model}, 4, sent.append)
    loop.take(decode(1, 16))
    for _ in range(3):
        loop.tick()
    loop.take(Cancel(1))
    assert loop.empty
    assert max(m.done for m in sent if isinstance(m, Progress)) == 3


def test_a_long_clip_is_looked_at_once_a_mark(model: Model) -> None:
    request = decode(1, 10, previews=2)
    sent = run(model, request)
    shown = [message for message in sent if isinstance(message, Preview)]
    assert [each.image.shape for each in shown] == [(1, 10, 8, 8)] * 2
    assert results(sent)[1].images == results(run(model, decode(1, 10)))[1].images


def test_a_long_clip_goes_on_from_any_snapshot(model: Model) -> None:
    request = decode(1, 10, n=2, snapshot_every=1)
    sent: list[Message] = []
    loop = Loop({"m": model}, 3, sent.append)
    loop.take(request)
    while loop.busy:
        loop.tick()
    found = [message for message in sent if isinstance(message, Snapshot)]
    assert len(found) == 2
    for each in found:
        assert each.done % 4 == 0
        again = run(model, msgspec.structs.replace(request, resume=each))
        assert [m.done for m in again if isinstance(m, Accepted)] == [each.done]
        assert results(again) == results(sent)


def test_windows_that_do_not_cover_the_clip_fail_alone(model: Model) -> None:
    wrong = msgspec.structs.replace(decode(1, 10), windows=3)
    (error,) = [m for m in run(model, wrong) if isinstance(m, Error)]
    assert error.code == "engine_error"


def test_a_long_clip_is_encoded_by_windows(model: Model) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 10, 8, 8), np.uint8)
    request = Encode(1, "m", True, 7, frames(pixels), "z_clean", 0, windows=4)
    z = tensor(results(run(model, request))[1].latents)
    assert z.shape == (1, 4, 5, 2, 2)
    encoder, x = model.unified.encoder, to_unit(torch.from_numpy(pixels))[None]
    with torch.inference_mode(), arithmetic(True):
        parts = [encoder(x[:, :, 2 * k : 2 * k + 4]) for k in range(4)]
    torch.testing.assert_close(z[:, :, 0], parts[0][:, :, 0])
    torch.testing.assert_close(z[:, :, 2], (parts[1][:, :, 1] + parts[2][:, :, 0]) / 2)
    torch.testing.assert_close(z[:, :, 4], parts[3][:, :, 1])


@pytest.mark.parametrize("total", range(2, 30))
def test_the_card_counts_the_windows_of_the_engine(model: Model, total: int) -> None:
    assert lengths.windows(model.card, total) == len(windows(total, 2).begins)
    longer = msgspec.structs.replace(model.card, latent_shape=(4, 5, 2, 2))
    if total >= 5:
        assert lengths.windows(longer, total) == len(windows(total, 5).begins)
