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

from tests.service.stepper.test_loop import encode, generate, results, run, tensor
from unified_latents.models import checkpoint
from unified_latents.service.engine.messages import Checkpoint, Error, Request
from unified_latents.service.engine.protocol import Message
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.engine.telemetry import GraphCounts, Tick
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.networks.compiled import networks
from unified_latents.service.stepper.networks.graphs import (
    Graphs,
    Record,
    Recorded,
    RecordingError,
    bucket,
    launch,
)
from unified_latents.service.stepper.networks.numerics import CUDA_BLOCK
from unified_latents.service.stepper.process import recorded

CROWD: tuple[Request, ...] = (generate(1, n=3), generate(2, seed=9, guidance=1.0), encode(3))


class Recorder:
    """`Record` without a GPU."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.outputs: list[Tensor] = []

    def __call__(self, run: Callable[[], Tensor]) -> Recorded:
        expected, output = run(), run()
        self.rows.append(len(output))
        self.outputs.append(output)

        def replay() -> None:
            for each in self.outputs:
                each.fill_(torch.nan)
            output.copy_(run())

        return Recorded(expected, output, replay)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(Checkpoint("m", str(tiny)), "cpu")


def recording(model: Model, record: Record) -> Model:
    return replace(model, graphs=Graphs(lambda: record))


def bytes_of(sent: list[Message]) -> dict[int, object]:
    assert not any(isinstance(message, Error) for message in sent)
    return {number: (made.images, made.latents) for number, made in results(sent).items()}


def ticks(sent: list[Message]) -> list[Tick]:
    return [message for message in sent if isinstance(message, Tick)]


def counts(sent: list[Message]) -> GraphCounts:
    """Of all passes."""
    fields = GraphCounts.__struct_fields__
    return GraphCounts(*(sum(getattr(tick.graphs, f) for tick in ticks(sent)) for f in fields))


def rows(tick: Tick) -> int:
    return tick.conditional_rows + tick.unconditional_rows


def test_buckets_hold_what_they_are_for() -> None:
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 32, 33, 65)] == [
        *(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 32, 48, 96)
    ]
    assert all(n <= bucket(n) < 1.5 * n for n in range(1, 1025))


def test_a_strict_replay_has_the_bits_of_a_launch(model: Model) -> None:
    """Rows pass eight at a time, whoever joins: one recording for each network."""
    recorder, expected = Recorder(), bytes_of(run(model, *CROWD))
    replaying = recording(model, recorder)
    for turn in range(2):
        sent = run(replaying, *CROWD)
        assert bytes_of(sent) == expected
        blocks = [-(-rows(tick) // CUDA_BLOCK) for tick in ticks(sent)]
        held = sum(blocks) * CUDA_BLOCK
        assert counts(sent).replays == sum(blocks)
        assert counts(sent).padding_rows == held - sum(map(rows, ticks(sent))) > 0
        assert counts(sent).recorded == (0 if turn else 3)
    assert recorder.rows == 3 * [CUDA_BLOCK]
    assert bytes_of(run(replaying, CROWD[0])) == {1: expected[1]}


def test_a_fast_replay_rounds_rows_up(model: Model) -> None:
    recorder = Recorder()
    requests = [generate(1, n=3, strict=False), generate(2, seed=9, n=2, strict=False)]
    sent, plain = run(recording(model, recorder), *requests), run(model, *requests)
    for number, made in results(sent).items():
        there = tensor(results(plain)[number].images).int()
        assert (tensor(made.images).int() - there).abs().max() <= 1
    passes = ticks(sent)
    assert sorted(recorder.rows) == sorted(
        {(t.stage, bucket(rows(t))): bucket(rows(t)) for t in passes}.values()
    )
    assert counts(sent).padding_rows == sum(bucket(rows(t)) - rows(t) for t in passes) > 0


def refuse(run: Callable[[], Tensor]) -> Recorded:
    raise RecordingError("operation not permitted when stream is capturing")


def forget(run: Callable[[], Tensor]) -> Recorded:
    """Its replays leave the rows that there were."""
    made = run()
    return Recorded(made, made * 1.01 + 0.01, lambda: None)


@pytest.mark.parametrize("record", [refuse, forget])
def test_what_cannot_be_recorded_is_launched_and_counted(
    model: Model, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay that makes something else is as good as none; nothing is tried after that."""
    replaying, expected = recording(model, record), bytes_of(run(model, *CROWD))
    with caplog.at_level(logging.WARNING):
        sent = run(replaying, *CROWD)
        again = run(replaying, *CROWD)
    assert bytes_of(sent) == bytes_of(again) == expected
    assert counts(sent) == GraphCounts(
        not_recordable=len(ticks(sent)),
        padding_rows=sum(-rows(tick) % CUDA_BLOCK for tick in ticks(sent)),
    )
    assert len(caplog.records) == 1


def test_memory_that_does_not_hold_a_recording_splits_the_batch(model: Model) -> None:
    """What has been recorded goes, to make room."""
    recorder = Recorder()

    def starved(run: Callable[[], Tensor]) -> Recorded:
        recorded = recorder(run)
        if len(recorded.output) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return recorded

    request = generate(1, n=4, guidance=1.0, strict=False)
    replaying = recording(model, starved)
    sent, plain = run(replaying, request), run(model, request)
    made, expected = (tensor(results(each)[1].images).int() for each in (sent, plain))
    assert (made - expected).abs().max() <= 1
    assert sum(tick.out_of_memory.get("split", 0) for tick in ticks(sent)) > 0
    assert counts(sent).not_recordable == 0
    assert replaying.graphs is not None
    assert {rows for _, rows, _ in replaying.graphs._recordings} <= {1, 2}


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
    replaying, plain = load(path, "cuda", graphs=True), load(path, "cuda")
    sent = run(replaying, *CROWD)
    assert bytes_of(sent) == bytes_of(run(plain, *CROWD))
    assert bytes_of(run(replaying, CROWD[0])) == {1: bytes_of(sent)[1]}
    assert counts(sent).replays > 0
    assert counts(sent).not_recordable == 0
