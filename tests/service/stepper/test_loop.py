"""The step loop in this process: real networks, no pipe."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unified_latents.models.base import guided
from unified_latents.models.bitrate import bitrate
from unified_latents.models.pixels import from_unit, to_unit
from unified_latents.models.sampling import NoiseKeys, Stage, plan, sample
from unified_latents.service.engine.messages import (
    Accepted,
    Array,
    Cancel,
    Checkpoint,
    Decode,
    Encode,
    Error,
    Generate,
    Progress,
    Request,
    Result,
    Trajectory,
)
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.telemetry import Tick
from unified_latents.service.stepper import passes
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.loop import Loop
from unified_latents.service.stepper.networks.numerics import arithmetic
from unified_latents.service.stepper.work import Sample

HOW = Trajectory(4, "ancestral")
INTERVAL = (-6.0, 1.0)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("m", str(tiny)), "cpu")


def generate(number: int, **changes: object) -> Generate:
    fields: dict[str, object] = {
        "model": "m", "strict": True, "seed": 7, "first": 0, "n": 1, "label": 1,
        "base": Trajectory(5, "dpmpp-2m"), "guidance": 1.5, "interval": INTERVAL, "decode": HOW,
    }  # fmt: skip
    return Generate(id=number, **(fields | changes))  # type: ignore[arg-type]


def decode(number: int, z: torch.Tensor, kind: str = "z_0", seed: int = 7) -> Decode:
    array = Array(tuple(z.shape), "float32", z.numpy().tobytes())
    return Decode(number, "m", True, seed, 0, array, kind, HOW)  # type: ignore[arg-type]


def encode(number: int, kind: str = "z_clean", levels: int = 0) -> Encode:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16), np.uint8)
    image = Array((1, 16, 16), "uint8", pixels.tobytes())
    return Encode(number, "m", True, 7, image, kind, levels)  # type: ignore[arg-type]


def run(model: Model, *requests: Request, max_rows: int = 16) -> list[Message]:
    """All messages of requests that arrive together; by a clock that stands still, so that
    groups take turns."""
    sent: list[Message] = []
    loop = Loop({"m": model}, max_rows, sent.append, clock=lambda: 0.0)
    for request in requests:
        loop.take(request)
    while loop.busy:
        loop.tick()
    return sent


def results(sent: list[Message]) -> dict[int, Result]:
    return {message.id: message for message in sent if isinstance(message, Result)}


def tensor(array: Array | None) -> torch.Tensor:
    assert array is not None
    dtype = torch.uint8 if array.dtype == "uint8" else torch.float32
    return torch.frombuffer(bytearray(array.data), dtype=dtype).reshape(array.shape)


def test_a_request_is_the_loop_of_the_paper(model: Model) -> None:
    """Bit for bit what models.sampling gives by hand in strict mode's arithmetic."""
    assert model.base is not None
    config, one = model.unified.config, torch.tensor([7])
    with torch.no_grad(), arithmetic(strict=True):
        z_0 = sample(
            guided(model.base, torch.tensor([1]), 1.5, INTERVAL),
            NoiseKeys(one, one * 0, Stage.BASE),
            config.latent_shape,
            plan(config.latent_schedule, 5, "dpmpp-2m", to_mean=False),
            clip=False,
        )
        x = sample(
            lambda x_t, log_snr: model.unified.decoder(x_t, log_snr, z_0),
            NoiseKeys(one, one * 0, Stage.DECODE),
            config.image_shape,
            plan(config.image_schedule, 4, "ancestral", to_mean=True),
            clip=True,
        )
    images, latents = generate(1), generate(2, decode=None)
    assert torch.equal(tensor(results(run(model, images))[1].images), from_unit(x))
    assert torch.equal(tensor(results(run(model, latents))[2].latents), z_0)


def test_guidance_pays_for_a_second_row_only_inside_its_interval(model: Model) -> None:
    sent = run(model, generate(1, decode=None), generate(2, guidance=1.0, decode=None))
    ticks = [message for message in sent if isinstance(message, Tick)]
    levels = plan(model.unified.config.latent_schedule, 5, "dpmpp-2m", to_mean=False).log_snr
    inside = [int(INTERVAL[0] <= level <= INTERVAL[1]) for level in levels]
    assert [tick.unconditional_rows for tick in ticks] == inside
    assert [tick.conditional_rows for tick in ticks] == [2] * 5
    assert 0 < sum(inside) < 5


def test_requests_of_different_lengths_share_passes(model: Model) -> None:
    """Five and three base steps: three shared passes, then two alone, beside the decoder's."""
    sent = run(
        model, generate(1, decode=None), generate(2, base=Trajectory(3, "ddim"), decode=None)
    )
    assert [message.samples for message in sent if isinstance(message, Tick)] == [2, 2, 2, 1, 1]


def test_neighbours_change_nothing(model: Model) -> None:
    alone = results(run(model, generate(1, decode=None)))[1]
    crowd = [
        generate(i, seed=i, n=i, guidance=i / 2, base=Trajectory(2 + i, "ancestral"), decode=None)
        for i in range(2, 6)
    ]
    for max_rows in (1, 3, 16):
        mixed = results(run(model, *crowd, generate(1, decode=None), max_rows=max_rows))[1]
        torch.testing.assert_close(
            tensor(mixed.latents), tensor(alone.latents), atol=1e-5, rtol=1e-5
        )


def test_samples_of_one_request_are_numbered_from_its_first(model: Model) -> None:
    four = tensor(results(run(model, generate(1, n=4, decode=None)))[1].latents)
    third = tensor(results(run(model, generate(1, first=2, decode=None)))[1].latents)
    torch.testing.assert_close(four[2:3], third, atol=1e-5, rtol=1e-5)
    assert len({row.numpy().tobytes() for row in four}) == 4


def test_encoding_the_mean_or_the_noised_latent_decodes_to_the_same_bytes(model: Model) -> None:
    sent = results(run(model, encode(1), encode(2, "z_0")))
    mean, noised = tensor(sent[1].latents), tensor(sent[2].latents)
    assert not torch.equal(mean, noised)
    images = results(run(model, decode(1, mean, "z_clean"), decode(2, noised, "z_0")))
    assert images[1].images == images[2].images
    other = results(run(model, decode(3, mean, "z_clean", seed=8)))[3]
    assert other.images != images[1].images


def test_an_encoding_and_its_rate_are_those_of_the_model(model: Model) -> None:
    request = encode(1, levels=12)
    done = results(run(model, request))[1]
    x = to_unit(tensor(request.image))[None]
    with torch.no_grad():
        z_clean = model.unified.encoder(x)
    assert torch.equal(tensor(done.latents), z_clean)
    seven = torch.tensor([7])
    expected = bitrate(model.unified, z_clean, NoiseKeys(seven, seven * 0, Stage.BITRATE), 12)
    assert done.bitrate is not None
    assert math.isclose(done.bitrate.nats, expected.nats.item(), rel_tol=1e-5)
    assert math.isclose(done.bitrate.std_error, expected.std_error.item(), rel_tol=1e-4)


def test_a_long_rate_takes_many_short_passes_between_those_of_others(model: Model) -> None:
    request = encode(1, levels=130)
    sent = run(model, request, generate(2, decode=None))
    stages = [message.stage for message in sent if isinstance(message, Tick)]
    assert stages == ["encode", "base", "rate", "base", "rate", "base", "rate", "base", "base"]
    done, progress = results(sent)[1], [m for m in sent if isinstance(m, Progress) and m.id == 1]
    assert [(message.done, message.steps) for message in progress] == [(i, 4) for i in range(1, 5)]
    seven = torch.tensor([7])
    with torch.no_grad():
        z_clean = model.unified.encoder(to_unit(tensor(request.image))[None])
    expected = bitrate(model.unified, z_clean, NoiseKeys(seven, seven * 0, Stage.BITRATE), 130, 64)
    assert done.bitrate is not None
    assert done.bitrate.nats == expected.nats.item()
    assert done.bitrate.std_error == expected.std_error.item()


def test_events_come_in_order_and_count_to_the_end(model: Model) -> None:
    sent = run(model, generate(1, n=2))
    mine = [message for message in sent if not isinstance(message, Tick)]
    assert mine[0] == Accepted(1, 18, model=model.card.digest)
    progress = [message.done for message in mine if isinstance(message, Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == 18
    assert isinstance(mine[-1], Result)


def test_waiting_is_measured_once_a_request(model: Model) -> None:
    now = [0.0]
    sent: list[Message] = []
    loop = Loop({"m": model}, 1, sent.append, clock=lambda: now[0])
    loop.take(generate(1, decode=None))
    loop.take(generate(2, decode=None))
    now[0] = 3.0
    loop.tick()
    (tick,) = (message for message in sent if isinstance(message, Tick))
    assert tick.waited == {"normal": (3.0,)}
    assert tick.inflight["base"] == 2
    assert tick.queued["base"] == {"high": 0, "normal": 1, "low": 0}


def test_a_row_that_is_not_finite_fails_alone(model: Model) -> None:
    poison = decode(1, torch.full((1, 4, 4, 4), 1e38))
    healthy = decode(2, torch.zeros(1, 4, 4, 4))
    sent = run(model, poison, healthy)
    errors = [message for message in sent if isinstance(message, Error)]
    assert [(error.id, error.code) for error in errors] == [(1, "nonfinite")]
    assert results(sent)[2].images == results(run(model, healthy))[2].images


def test_a_pass_that_raises_fails_only_its_culprit(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(samples: list[Sample]) -> list[passes.Outcome]:
        if any(sample.job.request.seed == 13 for sample in samples):
            raise RuntimeError("an injected fault")
        return passes.decode(samples)

    monkeypatch.setitem(passes.PASSES, "decode", faulty)
    crowd = [generate(i, seed=i) for i in (11, 12, 13, 14, 15)]
    sent = run(model, *crowd)
    assert set(results(sent)) == {11, 12, 14, 15}
    errors = [message for message in sent if isinstance(message, Error)]
    assert [(error.id, error.code) for error in errors] == [(13, "engine_error")]
    assert "injected" not in errors[0].detail


def test_a_fault_in_every_sample_of_a_request_ends_the_request_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(samples: list[Sample]) -> list[passes.Outcome]:
        raise RuntimeError("an injected fault")

    monkeypatch.setitem(passes.PASSES, "base", faulty)
    sent = run(model, generate(1, n=3), generate(2, n=2))
    errors = [message for message in sent if isinstance(message, Error)]
    assert sorted((error.id, error.code) for error in errors) == [
        (1, "engine_error"),
        (2, "engine_error"),
    ]


def test_cancel_takes_effect_between_two_passes(model: Model) -> None:
    sent: list[Message] = []
    loop = Loop({"m": model}, 16, sent.append)
    loop.take(generate(1))
    loop.tick()
    loop.take(Cancel(1))
    loop.take(Cancel(99))
    assert not loop.busy
    loop.tick()
    assert not results(sent)


def test_unknown_models_are_errors(model: Model) -> None:
    (error,) = run(model, generate(1, model="other"))
    assert isinstance(error, Error)
    assert error.code == "unknown_model"
