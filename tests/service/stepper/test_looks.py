from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from tests.service.stepper.test_loop import decode, encode, generate, results, run, tensor
from unified_latents.service.engine.messages import (
    Checkpoint,
    Preview,
    Progress,
    Trajectory,
)
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.telemetry import Tick
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.looks import marks


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("m", str(tiny)), "cpu")


def looks(sent: list[Message], number: int) -> list[Preview]:
    return [m for m in sent if isinstance(m, Preview) and m.id == number]


def test_looks_are_spaced_evenly_and_never_at_the_end() -> None:
    ten = Trajectory(10, "ddim")
    assert marks(generate(1, base=ten, decode=ten, previews=3)) == {5, 10, 15}
    assert marks(generate(1, base=ten, decode=None, previews=1)) == {5}
    assert marks(generate(1, base=ten, decode=ten, previews=500)) == set(range(1, 20))
    assert marks(generate(1)) == marks(encode(1)) == frozenset()


def test_every_sample_is_looked_at_in_both_stages_and_the_picture_stays_the_same(
    model: Model,
) -> None:
    ten = Trajectory(10, "ancestral")
    plain = generate(1, n=2, base=ten, decode=ten)
    watched = generate(1, n=2, base=ten, decode=ten, previews=3)
    sent = run(model, watched)
    assert results(sent)[1].images == results(run(model, plain))[1].images
    assert sorted(look.sample for look in looks(sent, 1)) == [0, 0, 0, 1, 1, 1]
    assert {look.image.shape for look in looks(sent, 1)} == {(1, 16, 16)}
    assert {look.image.dtype for look in looks(sent, 1)} == {"uint8"}
    ticks = [message for message in sent if isinstance(message, Tick)]
    assert sum(tick.preview_rows for tick in ticks) == 2 * 2  # marks 5 and 10: the base model's
    assert [m.done for m in sent if isinstance(m, Progress)][-1] == 40


def test_looks_come_closer_to_the_end(model: Model) -> None:
    sent = run(model, decode(1, torch.zeros(1, 4, 4, 4)))
    end = tensor(results(sent)[1].images)[0].float()
    fine = msgspec.structs.replace(decode(1, torch.zeros(1, 4, 4, 4)), previews=3)
    pictures = [tensor(look.image).float() for look in looks(run(model, fine), 1)]
    errors = [(picture - end).abs().mean().item() for picture in pictures]
    assert len(errors) == 3
    assert errors[-1] < errors[0]
