"""CUDA graphs: what a network launches for a number of rows, recorded once and then replayed.

A pass of a few rows keeps a GPU less busy than it keeps the host that launches kernel by kernel; a
replay is one launch. Rows are rounded up to a bucket, in strict mode always to the same one, and
rows that nobody asked for compute what was there before: no row sees another. Where recording
fails, networks are launched as they are, and that is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unified_latents.service.engine.telemetry import GraphCounts
from unified_latents.service.stepper.networks.numerics import CUDA_BLOCK, arithmetic, in_blocks

_AGREES = 1e-3

log = logging.getLogger(__name__)


class RecordingError(Exception):
    """Something cannot be recorded, or does not do again what it did."""


class Recorded(NamedTuple):
    """A replay writes `output`, whose memory others' replays may use too: until the next of any."""

    expected: Tensor
    """What was made before it was recorded."""
    output: Tensor
    replay: Callable[[], None]


Record = Callable[[Callable[[], Tensor]], Recorded]
"""Of what a function makes of tensors that stay where they are."""


class CudaRecord:
    """`Record` on one CUDA device; all recordings share one pool of memory."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._first: torch.cuda.CUDAGraph | None = None

    def __call__(self, run: Callable[[], Tensor]) -> Recorded:
        """Run once before it is recorded: what is loaded and compiled then is no part of it."""
        stream, graph = _stream(self._device), torch.cuda.CUDAGraph()
        pool = self._first.pool() if self._first else None
        stream.wait_stream(torch.cuda.current_stream(self._device))
        # Around the capture too: one that fails leaves its own stream in place.
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            expected = run()
            try:
                # Another thread may load a model: only this one's calls must be recordable.
                with torch.cuda.graph(
                    graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                ):
                    output = run()
            except Exception as error:
                raise RecordingError(str(error)) from error
        self._first = self._first or graph
        return Recorded(expected, output, graph.replay)


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: a workspace of the products comes with each."""
    return torch.cuda.Stream(device)


class Graphs:
    """The recordings of one model's networks. `record` makes what makes them."""

    def __init__(self, record: Callable[[], Record]) -> None:
        self._new = record
        self._record: Record | None = record()
        self._recordings: dict[tuple[str, int, bool], tuple[tuple[Tensor, ...], Recorded]] = {}
        self._counts = GraphCounts()

    def taken(self) -> GraphCounts:
        """Since the last call."""
        counts, self._counts = self._counts, GraphCounts()
        return counts

    def run(
        self, name: str, network: nn.Module, inputs: tuple[Tensor, ...], *, strict: bool
    ) -> Tensor:
        """What the network of this name makes of its rows.

        Where memory runs out all recordings are let go, for another try with fewer rows.
        """

        def block(rows: tuple[Tensor, ...]) -> Tensor:
            return self._block(name, network, rows, strict=strict)

        try:
            if not strict:
                return block(inputs)
            self._counts.padding_rows += -len(inputs[0]) % CUDA_BLOCK
            return in_blocks(block, inputs, CUDA_BLOCK)
        except torch.OutOfMemoryError:
            self._recordings.clear()
            self._record = self._record and self._new()
            raise

    def _block(
        self, name: str, network: nn.Module, inputs: tuple[Tensor, ...], *, strict: bool
    ) -> Tensor:
        n = len(inputs[0])
        key = name, bucket(n), strict
        if key not in self._recordings and not self._recorded(key, network, inputs):
            self._counts.not_recordable += 1
            return launch(network, inputs, strict=strict)
        static, recorded = self._recordings[key]
        for there, given in zip(static, inputs, strict=True):
            there[:n].copy_(given)
        recorded.replay()
        self._counts.replays += 1
        self._counts.padding_rows += key[1] - n
        return recorded.output[:n].clone()

    def _recorded(
        self, key: tuple[str, int, bool], network: nn.Module, inputs: tuple[Tensor, ...]
    ) -> bool:
        """Whether there is one now. After one that failed no other is tried."""
        name, rows, strict = key
        if self._record is None:
            return False
        static = tuple(_padded(each, rows) for each in inputs)
        try:
            recorded = self._record(lambda: launch(network, static, strict=strict))
            recorded.replay()
            if not torch.allclose(
                recorded.output, recorded.expected, rtol=_AGREES, atol=_AGREES, equal_nan=True
            ):
                raise RecordingError("a replay does not make what was made before it")
        except RecordingError:
            log.warning("%s of %d rows cannot be recorded", name, rows, exc_info=True)
            self._record = None
            return False
        self._recordings[key] = static, recorded
        self._counts.recorded += 1
        return True


def bucket(rows: int) -> int:
    """A power of two or the half between two, at least `rows`: so many does a recording have."""
    step = 1 << max(0, (rows - 1).bit_length() - 2)
    return rows + -rows % step


def launch(network: nn.Module, inputs: tuple[Tensor, ...], *, strict: bool) -> Tensor:
    """What the network makes of its rows, in the arithmetic of a mode."""
    if strict and inputs[0].is_cuda:
        return in_blocks(lambda rows: network(*rows), inputs, CUDA_BLOCK)
    with arithmetic(strict):
        made: Tensor = network(*inputs)
    return made


def _padded(rows: Tensor, n: int) -> Tensor:
    """A copy of its own, the last row repeated."""
    return torch.cat((rows, rows[-1:].expand(n - len(rows), *rows.shape[1:])))
