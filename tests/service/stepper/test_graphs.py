"""Recordings of networks: buffers and counts anywhere, what is CUDA's own where there is CUDA.

The recorder of these tests replays by computing again, in place, and spoils what the other
recordings have left behind, as a shared pool of memory may.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.service.stepper.test_loop import encode, generate, results, run
from unified_latents.models import checkpoint
from unified_latents.service.engine.messages import Checkpoint, Error, Request
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.engine.telemetry import GraphCounts, Tick
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.compiled import networks
from unified_latents.service.stepper.graphs import Graphs, bucket, launch
from unified_latents.service.stepper.process import recorded

CROWD: tuple[Request, ...] = (
    generate(1, n=3),
    generate(2, seed=9, guidance=1.0),
    encode(3),
    generate(4, label=2, n=2, strict=False),
)


class Recorder:
    """`Record` without a GPU."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.outputs: list[Tensor] = []

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        made = run()
        self.rows.append(len(made))
        self.outputs.append(made)

        def replay() -> None:
            for output in self.outputs:
                output.fill_(torch.nan)
            made.copy_(run())

        return made, replay


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("m", str(tiny)), "cpu")


def bytes_of(sent: list[Message]) -> dict[int, object]:
    assert not any(isinstance(message, Error) for message in sent)
    return {number: (made.images, made.latents) for number, made in results(sent).items()}


def counts(sent: list[Message]) -> GraphCounts:
    """Of all passes."""
    each = [message.graphs for message in sent if isinstance(message, Tick)]
    return GraphCounts(*(sum(getattr(c, f) for c in each) for f in GraphCounts.__struct_fields__))


def test_buckets_hold_what_they_are_for() -> None:
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)] == [
        *(1, 2, 4, 4, 8, 8, 16, 16, 24, 32, 40)
    ]


def test_a_replay_gives_what_a_launch_gives(model: Model) -> None:
    """Strict rows to the bit; one recording for each network, bucket and mode, whatever joins."""
    plain, recorder = run(model, *CROWD), Recorder()
    graphs = Graphs(recorder)
    recording = replace(model, graphs=graphs)
    for _ in range(2):
        replayed = run(recording, *CROWD)
        made, expected = bytes_of(replayed), bytes_of(plain)
        assert {n: made[n] for n in (1, 2, 3)} == {n: expected[n] for n in (1, 2, 3)}
        ticks = [message for message in replayed if isinstance(message, Tick)]
        assert counts(replayed).replays == len(ticks)
        asked = sum(tick.conditional_rows + tick.unconditional_rows for tick in ticks)
        held = sum(bucket(tick.conditional_rows + tick.unconditional_rows) for tick in ticks)
        assert counts(replayed).padding_rows == held - asked > 0
        assert len(recorder.rows) == len(set(graphs._recordings))
        assert all(rows == bucket(rows) for rows in recorder.rows)
    assert counts(plain) == GraphCounts()


def test_what_cannot_be_recorded_is_launched_and_counted(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    recording = replace(model, graphs=Graphs(refuse))
    with caplog.at_level(logging.WARNING):
        sent = run(recording, *CROWD[:2])
        warned = len(caplog.records)
        again = run(recording, *CROWD[:2])
    assert bytes_of(sent) == bytes_of(again) == bytes_of(run(model, *CROWD[:2]))
    passes = sum(isinstance(message, Tick) for message in sent)
    assert counts(sent) == GraphCounts(not_recordable=passes)
    assert len(caplog.records) == warned > 0, "each bucket is tried, and warned of, once"


def test_memory_that_does_not_hold_a_recording_splits_the_batch(model: Model) -> None:
    recorder = Recorder()

    def starved(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        made, replay = recorder(run)
        if len(made) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made, replay

    request = generate(1, n=4, guidance=1.0)
    sent = run(replace(model, graphs=Graphs(starved)), request)
    assert bytes_of(sent) == bytes_of(run(model, request))
    assert sum(t.out_of_memory.get("split", 0) for t in sent if isinstance(t, Tick)) > 0
    assert counts(sent).not_recordable == 0


def test_only_cuda_records_and_an_operator_may_forbid_it(tiny: Path) -> None:
    options = EngineOptions((Checkpoint("m", str(tiny)),))
    assert not recorded(options.hello)
    assert recorded(replace(options, device="cuda:1").hello)
    assert not recorded(replace(options, device="cuda", graphs=False).hello)


@pytest.mark.parametrize("strict", [False, True])
@torch.inference_mode()
def test_no_network_asks_its_device_for_a_value_or_takes_a_tensor_of_another(
    tiny: Path, tiny_clips: Path, strict: bool
) -> None:
    """Neither can be recorded, and neither can be done where there is no memory."""
    for loaded in map(checkpoint.load, (tiny, tiny_clips)):
        for network in networks(loaded.unified, loaded.base, 3).values():
            inputs = tuple(each.to("meta") for each in network.inputs)
            made = launch(network.module.to("meta"), inputs, strict=strict)
            assert made.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_replay_has_the_bits_of_a_launch(tiny: Path) -> None:
    path = Checkpoint("m", str(tiny))
    recording, plain = load(path, "cuda", graphs=True), load(path, "cuda")
    sent = run(recording, *CROWD)
    assert bytes_of(sent)[1] == bytes_of(run(plain, *CROWD))[1]
    assert counts(sent).replays > 0
    assert counts(sent).not_recordable == 0
