"""Make shared libraries of a model's networks, and keep those that are worth having.

`python -P -m unified_latents.service.stepper.compile CHECKPOINT INTO ROUNDS THREADS` prints a
table. One library serves every number of rows. It is kept where it is faster in both modes, at
every number of rows that is tried, and where strict rows have equal bits in any number and place.
One that is there already, and sound, stays as it is: an engine may be running on it.
"""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_compiler_version_info, get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from unified_latents.kernels import inductor
from unified_latents.models import checkpoint
from unified_latents.models.manifest import CheckpointError
from unified_latents.service.engine.spawn import PACKAGE
from unified_latents.service.stepper.networks.compiled import (
    Network,
    NetworkName,
    Package,
    PackageError,
    Purpose,
    contents,
    load,
    machine,
    networks,
    read,
)
from unified_latents.service.stepper.networks.numerics import arithmetic
from unified_latents.service.stepper.process import die_with_parent

ROWS = (1, 4, 16, 32)
_MOST_ROWS = 2**16
_EXAMPLE = 5
"""Rows that a network is traced with: no number that could be taken for another."""
_TIME = 0.1
"""Seconds of passes in one measurement, about."""
_OPTIONS = {
    **inductor.OPTIONS,
    "aot_inductor.package_constants_in_so": False,
    "always_keep_tensor_constants": True,
}
"""No weight is packed, and none written into the code, where short vectors would go."""
HEAD = (
    f"{'network':<8} {'mode':<7} {'rows':>4} {'eager ms':>9} {'compiled ms':>12}   "
    f"{'eager / compiled':<26}"
)

Pass = Callable[..., Tensor]


class Line(NamedTuple):
    """Rounds of pairs at one number of rows, in one mode; seconds of a pass."""

    network: NetworkName
    strict: bool
    rows: int
    eager: tuple[float, ...]
    compiled: tuple[float, ...]

    @property
    def mode(self) -> str:
        return "strict" if self.strict else "fast"

    @property
    def ratio(self) -> float:
        """How many times as fast the compiled pass is: the median pair's."""
        return statistics.median(self._ratios)

    @property
    def _ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.eager, self.compiled, strict=True)]

    def __str__(self) -> str:
        quick, slow = (1000 * statistics.median(side) for side in (self.eager, self.compiled))
        spread = f"×{self.ratio:.2f} ({min(self._ratios):.2f} … {max(self._ratios):.2f})"
        times = f"{self.rows:>4} {quick:>9.2f} {slow:>12.2f}"
        return f"{self.network:<8} {self.mode:<7} {times}   {spread}"


def contest(name: NetworkName, network: Network, compiled: Pass, rounds: int) -> list[Line]:
    """Every number of rows in both modes, in pairs whose order changes."""
    return [
        _line(name, network, compiled, rounds, n, strict=strict)
        for strict in (False, True)
        for n in ROWS
    ]


def _line(
    name: NetworkName, network: Network, compiled: Pass, rounds: int, n: int, *, strict: bool
) -> Line:
    rows = tuple(each[:n] for each in network.inputs)

    def eager() -> Tensor:
        with arithmetic(strict):
            made: Tensor = network.module(*rows)
        return made

    def fast() -> Tensor:
        return compiled(*rows, strict=strict)

    fast()
    repeats = max(1, round(_TIME / _seconds(eager, 1)))
    pairs = []
    for i in range(rounds):
        ways = (eager, fast) if i % 2 else (fast, eager)
        took = {way: _seconds(way, repeats) for way in ways}
        pairs.append((took[eager], took[fast]))
    ours, theirs = zip(*pairs, strict=True)
    return Line(name, strict, n, ours, theirs)


def _seconds(run: Callable[[], Tensor], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats


def same_bits(network: Network, compiled: Pass) -> bool:
    """Whether strict rows are the same to the bit in any number, and wherever they stand."""
    whole = compiled(*network.inputs, strict=True)
    largest = max(ROWS)
    shuffled = torch.randperm(largest, generator=torch.Generator().manual_seed(0))
    choices = [
        *(torch.arange(n) for n in range(1, largest)),
        *(torch.arange(n, largest) for n in range(1, largest)),
        shuffled,
    ]
    return all(
        torch.equal(compiled(*(each[rows] for each in network.inputs), strict=True), whole[rows])
        for rows in choices
    )


def build(network: Network, folder: Path) -> None:
    """Compile into a new folder, without the weights."""
    with torch.no_grad():
        program = torch.export.export(
            network.module,
            tuple(each[:_EXAMPLE].clone() for each in network.inputs),
            dynamic_shapes=_any_rows(network),
        )
        with tempfile.TemporaryDirectory() as scratch:
            made = torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(Path(scratch) / "network.pt2"),
                inductor_configs=_OPTIONS,
            )
            with zipfile.ZipFile(made) as archive:
                archive.extractall(folder)
    for path in folder.rglob("*.cpp"):
        path.unlink()


def _any_rows(network: Network) -> tuple[object, ...]:
    """For `export`, input by input; what `*context` takes is a tuple of its own."""
    rows = {0: torch.export.Dim("n", min=1, max=_MOST_ROWS)}
    kinds = [each.kind for each in inspect.signature(network.module.forward).parameters.values()]
    named = len(kinds) - kinds.count(inspect.Parameter.VAR_POSITIONAL)
    context = (rows,) * (len(network.inputs) - named)
    return (rows,) * named + ((context,) if context else ())


def purpose(stage: NetworkName, network: Network) -> Purpose:
    """Of a package that would be made here and now."""
    compiler = get_compiler_version_info(get_cpp_compiler()).partition("\n")[0]
    return Purpose(stage, machine(), network.fingerprint, compiler)


def describe(wanted: Purpose, folder: Path) -> Package:
    """`compiled.json`, written."""
    package = Package(wanted, contents(folder)).sealed
    (folder / PACKAGE).write_bytes(msgspec.json.encode(package))
    return package


def make(stage: NetworkName, network: Network, into: Path, rounds: int) -> str:
    """Compile, compare, and keep it or not: what became of it. Lines are printed meanwhile."""
    wanted = purpose(stage, network)
    target = into / wanted.name
    if _sound(target, network):
        return f"{target} is there already"
    with tempfile.TemporaryDirectory(dir=into, prefix=f".{os.getpid()}-") as scratch:
        folder = Path(scratch) / "package"
        build(network, folder)
        package = describe(wanted, folder)
        with torch.inference_mode():
            if why := _fault(stage, network, load(folder, package, network), rounds):
                return f"not kept: {why}"
        try:
            folder.rename(target)
        except OSError:
            return f"{target} has come from elsewhere meanwhile"
    return f"kept as {target}"


def _fault(stage: NetworkName, network: Network, compiled: Pass, rounds: int) -> str | None:
    """Why a library is not worth having; its lines are printed."""
    lines = contest(stage, network, compiled, rounds)
    _say(*map(str, lines))
    if slow := [f"{line.mode} {line.rows}" for line in lines if line.ratio < 1]:
        return f"not faster with {' and '.join(slow)} rows"
    return None if same_bits(network, compiled) else "strict rows have other bits in other passes"


def _sound(target: Path, network: Network) -> bool:
    """Whether a package is there; one that is damaged is removed."""
    if not target.exists():
        return False
    try:
        load(target, read(target), network)
    except PackageError as error:
        _say(str(error))
        shutil.rmtree(target)
        return False
    return True


def sweep(into: Path) -> None:
    """Remove what compilations left that were killed."""
    for path in into.glob(".[0-9]*-*"):
        pid = path.name[1:].partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def main(folder: str, into: Path, rounds: int, threads: int) -> int:
    """All networks of a checkpoint; 1, and why on stderr, where they cannot be compiled."""
    torch.set_num_threads(threads)
    try:
        loaded = checkpoint.load(folder)
        into.mkdir(parents=True, exist_ok=True)
        get_cpp_compiler()
        sweep(into)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except InvalidCxxCompiler:
        sys.stderr.write("there is no C++ compiler: install g++, or name another one in CXX\n")
        return 1
    _say(HEAD)
    for stage, network in networks(loaded.unified, loaded.base, max(ROWS)).items():
        _say(f"{stage}: {make(stage, network, into, rounds)}")
    return 0


if __name__ == "__main__":
    die_with_parent()
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
