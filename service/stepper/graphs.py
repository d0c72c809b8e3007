"""CUDA graphs: what a network launches for a number of rows, recorded once and then replayed.

A pass of a few rows keeps a GPU less busy than it keeps the host that launches kernel by kernel; a
replay is one launch. Rows are rounded up to a bucket, and rows that nobody asked for compute what
was there before: no row sees another. A network that cannot be recorded is launched as it is, and
counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unified_latents.service.engine.telemetry import GraphCounts
from unified_latents.service.stepper.numerics import arithmetic

_STRIDE = 8
"""Buckets are powers of two up to it, and its multiples beyond: at most so many rows for nobody."""

log = logging.getLogger(__name__)


class Recording(NamedTuple):
    """A replay reads the rows of `inputs` and writes those of `output`, which stay where they are.

    Other recordings may use the memory of `output` too: it holds until the next replay of any.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    replay: Callable[[], None]


Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""A function without arguments → where it leaves what it makes, and a way to make it again."""


class CudaRecord:
    """`Record` on one CUDA device; all recordings share one pool of memory."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        self._first: torch.cuda.CUDAGraph | None = None

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Run once before it is recorded: what is loaded and compiled then is no part of it."""
        with torch.cuda.device(self._device):
            stream = self._stream = self._stream or torch.cuda.Stream()
            graph, pool = torch.cuda.CUDAGraph(), self._first.pool() if self._first else None
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()
            # Another thread may load a model meanwhile: only this one's calls must be recordable.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                made = run()
        self._first = self._first or graph
        return made, graph.replay


class Graphs:
    """The recordings of one model's networks."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._recordings: dict[tuple[str, int, bool], Recording | None] = {}
        self._counts = GraphCounts()

    def taken(self) -> GraphCounts:
        """Since the last call."""
        counts, self._counts = self._counts, GraphCounts()
        return counts

    def run(
        self, name: str, network: nn.Module, inputs: tuple[Tensor, ...], *, strict: bool
    ) -> Tensor:
        """What the network of this name makes of its rows."""
        n = len(inputs[0])
        key = name, bucket(n), strict
        if key not in self._recordings:
            self._recordings[key] = self._recorded(key, network, inputs)
        recording = self._recordings[key]
        if recording is None:
            self._counts.not_recordable += 1
            return launch(network, inputs, strict=strict)
        for static, given in zip(recording.inputs, inputs, strict=True):
            static[:n].copy_(given)
        recording.replay()
        self._counts.replays += 1
        self._counts.padding_rows += key[1] - n
        return recording.output[:n].clone()

    def _recorded(
        self, key: tuple[str, int, bool], network: nn.Module, inputs: tuple[Tensor, ...]
    ) -> Recording | None:
        """None where that cannot be done; memory that runs out is the caller's to deal with."""
        name, rows, strict = key
        static = tuple(_padded(each, rows) for each in inputs)
        try:
            made, replay = self._record(lambda: launch(network, static, strict=strict))
        except torch.OutOfMemoryError:
            raise
        except Exception:
            log.warning("%s of %d rows cannot be recorded", name, rows, exc_info=True)
            return None
        return Recording(static, made, replay)


def bucket(rows: int) -> int:
    """How many rows a recording has that takes so many."""
    if rows > _STRIDE:
        return rows + -rows % _STRIDE
    return 1 << (rows - 1).bit_length()


def launch(network: nn.Module, inputs: tuple[Tensor, ...], *, strict: bool) -> Tensor:
    """What the network makes of its rows, in the arithmetic of a mode."""
    with arithmetic(strict):
        made: Tensor = network(*inputs)
    return made


def _padded(rows: Tensor, n: int) -> Tensor:
    """A copy of its own, the last row repeated."""
    return torch.cat((rows, rows[-1:].expand(n - len(rows), *rows.shape[1:])))
