"""Starting and ending the engine's process.

It is spawned, never forked, over one end of a socketpair, and exits when that end reports EOF:
so it cannot outlive its parent, however the parent ends. The environment is set here because
MKL reads its own once, before any code of ours runs in the child.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unified_latents.service.engine.messages import PROTOCOL, Checkpoint
from unified_latents.service.engine.protocol import Hello

_GRACE = 5.0
_KEPT = str(2**30)
DEFAULTS = {
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_THRESHOLD_": _KEPT,
    "MALLOC_TRIM_THRESHOLD_": _KEPT,
}
"""How a process that runs networks behaves unless the operator wants it otherwise.

A thread that waits for another sleeps: one that spins takes the core from the very thread it waits
for as soon as anybody else is at work. What a pass frees, glibc keeps for the next (bytes): else
the system clears every page of it anew.
"""
STEPPER = (sys.executable, "-P", "-m", "unified_latents.service.stepper")
"""`-P`: the working directory must not shadow packages."""
PACKAGE = "compiled.json"
"""What is in every folder of a compiled network."""
COMPILER = (sys.executable, "-P", "-W", "ignore", "-m", f"{STEPPER[-1]}.compile")


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is started with."""

    checkpoints: tuple[Checkpoint, ...]
    threads: int = 1
    max_rows: int = 32
    device: str = "cpu"
    max_pending: int = 256
    """Requests taken at once; the next one is refused."""
    hang: float = 30.0
    """Seconds without a pass while there is work, or without a sign of life: a hang."""
    patience: float = 300.0
    """Seconds without a sign of life from an engine that has not given one yet."""
    kernels: Literal["auto", "reference"] = "auto"
    """`reference`: no fused kernels, on a GPU either."""
    cache: Path | None = None
    """Where the engine keeps what its passes cost; None: nowhere."""
    compiled: tuple[Path, ...] = ()
    """Folders of compiled networks, to be used where they fit."""
    graphs: bool = True
    """Whether CUDA graphs are used where there is CUDA."""
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = STEPPER
    """Run with the number of its pipe's descriptor as one more argument."""

    @property
    def hello(self) -> Hello:
        cache = None if self.cache is None else str(self.cache)
        return Hello(
            PROTOCOL,
            self.checkpoints,
            self.threads,
            self.max_rows,
            self.device,
            cache,
            self.kernels,
            tuple(map(str, self.compiled)),
            self.graphs,
        )


def conditional_bitwise_reproducibility(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """`MKL_CBWR` for this processor: the same bits from a product whatever its shape and alignment.

    STRICT exists for AVX2 and AVX512 only; elsewhere the slow common denominator is taken.
    """
    try:
        flags = set(cpuinfo.read_text("utf-8", "replace").split())
    except OSError:
        flags = set()
    if "avx512f" in flags:
        return "AVX512,STRICT"
    return "AVX2,STRICT" if "avx2" in flags else "COMPATIBLE"


def environment(options: EngineOptions) -> dict[str, str]:
    """The child's: reproducible products and a pinned number of threads, `DEFAULTS` otherwise."""
    threads = str(options.threads)
    pinned = {
        "MKL_CBWR": conditional_bitwise_reproducibility(),
        "MKL_DYNAMIC": "FALSE",
        "OMP_DYNAMIC": "FALSE",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    return {**DEFAULTS, **os.environ, **pinned, **options.environment}


def packages(folder: Path | None) -> tuple[Path, ...]:
    """Compiled networks in a folder: an engine that replaces another gets the same ones."""
    found = () if folder is None else folder.glob(f"*/{PACKAGE}")
    return tuple(sorted(path.parent.absolute() for path in found))


def compile_ahead(checkpoint: str, into: Path, rounds: int, threads: int) -> int:
    """`stepper.compile` in a process like an engine's; its status. Nothing is left in caches."""
    with tempfile.TemporaryDirectory() as scratch:
        variables = environment(EngineOptions((), threads=threads))
        return subprocess.run(
            [*COMPILER, checkpoint, str(into), str(rounds), str(threads)],
            env={**variables, "TORCHINDUCTOR_CACHE_DIR": scratch, "TMPDIR": scratch},
            check=False,
        ).returncode


class EngineProcess:
    """A running engine and our end of its pipe."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: socket.socket) -> None:
        self._process = process
        self.pipe = pipe

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, which ends a stopped process too."""
        self._process.kill()

    async def close(self) -> int:
        """Close the pipe, wait for the process, kill it after a grace period; its status."""
        self.pipe.close()
        try:
            return await asyncio.to_thread(self._process.wait, _GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)


def spawn(options: EngineOptions) -> EngineProcess:
    """Start an engine. Call it from the main thread: the kernel's death signal follows the thread.

    Its own session keeps a terminal's Ctrl-C away from it, so that the parent decides the order
    in which things end.
    """
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [*options.command, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=environment(options),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return EngineProcess(process, ours)
