"""From any step on, the same bytes."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
import torch

from tests.service.stepper.test_loop import decode, generate
from unified_latents.service.engine.messages import (
    Accepted,
    Checkpoint,
    Decode,
    Generate,
    Result,
    SamplerName,
    Snapshot,
    Trajectory,
)
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.snapshots import seal
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.loop import Loop


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("m", str(tiny)), "cpu")


def run(model: Model, request: Generate | Decode, numerics: str = "id") -> list[Message]:
    """Three rows a pass, so that the samples are at different steps."""
    sent: list[Message] = []
    loop = Loop({"m": model}, 3, sent.append, numerics=lambda strict: numerics)
    loop.take(request)
    while loop.busy:
        loop.tick()
    return sent


def snapshots(sent: list[Message]) -> list[Snapshot]:
    return [message for message in sent if isinstance(message, Snapshot)]


def resumed(
    model: Model, request: Generate | Decode, at: Snapshot, numerics: str = "id"
) -> tuple[int, Result]:
    """Steps spared, and the result."""
    wire = msgspec.msgpack.encode(msgspec.structs.replace(request, resume=at))
    sent = run(model, msgspec.msgpack.decode(wire, type=type(request)), numerics)
    accepted, result = sent[0], sent[-1]
    if not isinstance(result, Result):
        (result,) = (message for message in sent if isinstance(message, Result))
    assert isinstance(accepted, Accepted)
    return accepted.done, result


def requests(sampler: SamplerName) -> list[Generate | Decode]:
    four = Trajectory(4, sampler)
    latents = decode(1, torch.linspace(-1, 1, 128).reshape(2, 4, 4, 4), "z_clean")
    return [
        generate(1, n=2, base=four, decode=four, snapshot_every=1),
        generate(1, n=2, base=four, decode=None, snapshot_every=1),
        msgspec.structs.replace(latents, decode=four, snapshot_every=1),
    ]


@pytest.mark.parametrize("sampler", ["ancestral", "dpmpp-2m"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["images", "latents", "decode"])
def test_resumed_at_any_step_it_ends_in_the_same_bytes(
    sampler: SamplerName, which: int, model: Model
) -> None:
    request = requests(sampler)[which]
    sent = run(model, request)
    undisturbed = [message for message in sent if isinstance(message, Result)]
    found = snapshots(sent)
    stages = {state.stage for each in found for state in each.samples}
    assert stages == [{"base", "decode"}, {"base"}, {"decode"}][which]
    assert len(found) >= 3
    for each in found:
        done, result = resumed(model, request, each)
        assert done == each.done > 0
        assert [result] == undisturbed


def test_snapshots_come_as_often_as_asked(model: Model) -> None:
    request = msgspec.structs.replace(requests("ddim")[0], snapshot_every=3)
    done = [each.done for each in snapshots(run(model, request))]
    assert done == sorted(done)
    assert all(later - earlier >= 6 for earlier, later in itertools.pairwise(done))
    assert snapshots(run(model, generate(1))) == []


def test_a_snapshot_that_does_not_fit_is_ignored_and_said_to_be(model: Model) -> None:
    request = requests("dpmpp-2m")[0]
    sent = run(model, request)
    at = snapshots(sent)[2]
    damaged = msgspec.structs.replace(at, done=at.done + 1)
    short = seal(msgspec.structs.replace(at, samples=at.samples[:1]))
    other = msgspec.structs.replace(request, seed=8)
    assert resumed(model, request, damaged)[0] == 0
    assert resumed(model, request, short)[0] == 0
    assert resumed(model, request, at, numerics="another machine")[0] == 0
    done, result = resumed(model, other, at)
    assert done == 0
    assert isinstance(sent[-1], Result)
    assert result.images != sent[-1].images
    again = msgspec.structs.replace(request, priority="low", timeout=1e6, previews=2)
    done, result = resumed(model, again, at)
    assert done == at.done
    assert result == sent[-1]
