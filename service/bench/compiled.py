"""Compiled networks against eager ones, pass by pass: whether the engine would gain by them.

`python -P -m unified_latents.service.bench.compiled FOLDER ROUNDS ROWS` prints a table; ROWS are
parted by commas. One graph serves every number of rows (another one a lone row, whose size
torch.compile takes for a constant), as an engine's would have to: passes are of any size.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.stepper.catalogue import Model, load

_TIME = 0.1
"""Seconds of passes in one measurement, about."""
HEAD = (
    f"{'stage':<7} {'rows':>4} {'eager ms':>9} {'compiled ms':>12}   {'eager / compiled':<26}"
    f"{'compiling s':>11}   rows of other batches, equal to the bit: eager, compiled"
)


class Network(NamedTuple):
    """A network and its inputs, as many rows as the largest pass has."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


class Way(NamedTuple):
    """One of two ways to run a network."""

    run: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    def rows(self, n: int) -> Tensor:
        """A pass over the first n rows."""
        return self.run(*(each[:n] for each in self.inputs))

    def seconds(self, n: int, repeats: int) -> float:
        """Of one such pass."""
        began = time.perf_counter()
        for _ in range(repeats):
            self.rows(n)
        return (time.perf_counter() - began) / repeats


def networks(model: Model, n: int) -> dict[str, Network]:
    """Those that take steps, with n rows each."""
    config, base = model.unified.config, model.base
    if base is None:
        raise ValueError("the bench needs a model with a base model")
    random = torch.Generator().manual_seed(0)
    x, z = (torch.randn(n, *s, generator=random) for s in (config.image_shape, config.latent_shape))
    log_snr, label = torch.linspace(-5, 3, n), torch.zeros(n, dtype=torch.int64)
    return {
        "base": Network(base, (z, log_snr, label)),
        "decode": Network(model.unified.decoder, (x, log_snr, z)),
    }


def contest(
    stage: str, network: Network, rows: Sequence[int], rounds: int, faster: Callable[..., Tensor]
) -> list[str]:
    """A line for each number of rows, in pairs whose order changes; `faster` is the network too."""
    eager, compiled = Way(network.module, network.inputs), Way(faster, network.inputs)
    first = {n: compiled.seconds(n, 1) for n in sorted(rows, reverse=True)}
    wholes = [way.rows(max(rows)) for way in (eager, compiled)]
    lines = []
    for n in rows:
        repeats = max(1, round(_TIME / eager.seconds(n, 1)))
        pairs = [_pair(eager, compiled, n, repeats, swap=i % 2 == 1) for i in range(rounds)]
        quick, slow = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = [ours / theirs for ours, theirs in pairs]
        spread = f"×{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"
        same = [
            "yes" if torch.equal(way.rows(n), whole[:n]) else "no"
            for way, whole in zip((eager, compiled), wholes, strict=True)
        ]
        compiling = max(0.0, first[n] - slow / 1000)
        lines.append(
            f"{stage:<7} {n:>4} {quick:>9.2f} {slow:>12.2f}   {spread:<26}{compiling:>11.1f}   "
            + ", ".join(same)
        )
    return lines


def _pair(eager: Way, compiled: Way, n: int, repeats: int, *, swap: bool) -> tuple[float, float]:
    if swap:
        second = compiled.seconds(n, repeats)
        return eager.seconds(n, repeats), second
    return eager.seconds(n, repeats), compiled.seconds(n, repeats)


@torch.inference_mode()
def main(folder: str, rounds: int, rows: Sequence[int]) -> None:
    """Print the table of a checkpoint, on one thread."""
    torch.set_num_threads(1)
    model = load(Checkpoint("bench", folder), "cpu")
    sys.stdout.write(f"{HEAD}\n")
    for stage, network in networks(model, max(rows)).items():
        faster = torch.compile(network.module, dynamic=True)
        sys.stdout.writelines(f"{line}\n" for line in contest(stage, network, rows, rounds, faster))
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(n) for n in sys.argv[3].split(",")])
