"""The same sampling by this tree and by a commit, in turns: whether a change has slowed the CPU.

The commit lies in a git worktree; both run in this environment, each from its own four folders.
Its `service.bench.direct` and its reading of our checkpoint are all that is asked of a commit.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unified_latents.service.bench.live import GUIDANCE
from unified_latents.service.bench.report import IMAGES, Direct, direct
from unified_latents.service.engine.spawn import EngineOptions, environment

ROOT = Path(__file__).parents[2]
LIMIT = 1.03
"""The median ratio up to which a tree has not become slower."""
_RESAMPLES = 10_000


class Work(NamedTuple):
    """Images of one call, and its arithmetic."""

    n: int
    strict: bool

    @property
    def title(self) -> str:
        """For the table."""
        return f"{self.n} image{'s' * (self.n > 1)}, {'strict' if self.strict else 'fast'}"


WORK = (Work(1, strict=False), Work(IMAGES, strict=False), Work(IMAGES, strict=True))


class Cost(NamedTuple):
    """Seconds of one call."""

    cpu: float
    wall: float


class UnknownCommitError(ValueError):
    """No checkout to take a commit from, or no such commit in it."""


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A folder with the files of `commit`, gone at the end; UnknownCommitError where there is none.

    `root` is a git checkout.
    """

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(root), "worktree", *arguments]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise UnknownCommitError(f"no {commit} at {root}: {error.stderr.strip()}") from error

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree"
        git("add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            git("remove", "--force", str(path))


def variables(tree: Path, threads: int) -> dict[str, str]:
    """The engine's environment, in which `unified_latents` is the four folders of `tree`."""
    return {**environment(EngineOptions((), threads=threads)), "PYTHONPATH": str(tree / ".import")}


def require_own(tree: Path, surroundings: Mapping[str, str]) -> None:
    """A RuntimeError unless a process in these surroundings runs the code of `tree`."""
    code = "import unified_latents.service.bench as here; print(here.__file__)"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=dict(surroundings), capture_output=True, check=True)
    found = Path(os.fsdecode(done.stdout.strip())).resolve()
    if not found.is_relative_to(tree.resolve()):
        raise RuntimeError(f"{found} would run, not the code of {tree}")


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % of the bootstrapped medians lie inside."""
    drawn = np.random.default_rng(0).choice(np.asarray(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, 1), (0.025, 0.975))
    return float(low), float(high)


def verdict(ratios: Sequence[float]) -> str:
    """`not slower` up to LIMIT, or where the interval contains 1."""
    low, high = interval(ratios)
    fine = statistics.median(ratios) <= LIMIT or low <= 1 <= high
    return "not slower" if fine else "SLOWER"


def run(commit: str, folder: str, rounds: int, steps: int, threads: int) -> str:
    """The table: seconds of this tree over seconds of the commit's, of the same calls."""
    lines = [
        f"this tree / {commit}, {steps} + {steps} steps, {threads} thread(s), {rounds} rounds: "
        "median (95 % interval)",
        f"{'':<18} {'CPU time':<26} {'wall time':<26} CPU verdict (≤ {LIMIT}, or 1 inside)",
    ]
    with ExitStack() as stack:
        trees = ROOT, stack.enter_context(worktree(ROOT, commit))
        pair = []
        for tree in trees:
            surroundings = variables(tree, threads)
            require_own(tree, surroundings)
            pair.append(stack.enter_context(direct(folder, threads, surroundings)))
        lines += [_line(work, pair, rounds, steps) for work in WORK]
    return "\n".join(lines)


def _line(work: Work, pair: Sequence[Direct], rounds: int, steps: int) -> str:
    """Which tree goes first changes with every round; the first round only warms up."""
    costs = []
    for seed in range(rounds + 1):
        order = (0, 1) if seed % 2 else (1, 0)
        took = {side: _cost(pair[side], work, steps, seed) for side in order}
        costs.append((took[0], took[1]))
    cpu = [ours.cpu / theirs.cpu for ours, theirs in costs[1:]]
    wall = [ours.wall / theirs.wall for ours, theirs in costs[1:]]
    return f"{work.title:<18} {_spread(cpu):<26} {_spread(wall):<26} {verdict(cpu)}"


def _cost(bare: Direct, work: Work, steps: int, seed: int) -> Cost:
    before = bare.cpu()
    wall = bare.seconds(
        stage="all", n=work.n, steps=steps, guidance=GUIDANCE, seed=seed, strict=work.strict
    )
    return Cost(bare.cpu() - before, wall)


def _spread(ratios: Sequence[float]) -> str:
    low, high = interval(ratios)
    return f"×{statistics.median(ratios):.3f} ({low:.3f} … {high:.3f})"
