"""The real engine with a planted fault: argv is a folder, and the pipe's number.

The file `fault` in the folder names the fault, and each but the poison happens once: its file is
removed first. The poison is every request of seed 666, at its second pass. A gate opens when there
is a file `open` in the folder; NaN goes into the first row.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unified_latents.service.stepper import passes
from unified_latents.service.stepper.process import main

POISON = 666


def throw(error: Exception) -> None:
    raise error


def pass_gate(gate: Path) -> None:
    while not gate.exists():
        threading.Event().wait(0.01)


def strike(fault: str, folder: Path, samples: Sequence[Any]) -> None:
    me, never = os.getpid(), threading.Event()
    faults: dict[str, Callable[[], object]] = {
        "raise": lambda: throw(RuntimeError("an injected fault")),
        "memory": lambda: throw(MemoryError()),
        "nan": lambda: samples[0].walk.state.x_t.fill_(float("nan")),
        "slow": lambda: never.wait(1.0),
        "gate": lambda: pass_gate(folder / "open"),
        "sleep": never.wait,
        "exit": lambda: os._exit(3),
        "kill": lambda: os.kill(me, signal.SIGKILL),
        "stop": lambda: os.kill(me, signal.SIGSTOP),
    }
    faults[fault]()


def plant(folder: Path) -> None:
    base = passes.PASSES["base"]

    def faulty(samples: Sequence[Any]) -> Any:
        if any(s.job.request.seed == POISON and s.job.done for s in samples):
            os._exit(4)
        file = folder / "fault"
        if file.exists() and len(samples) > 2:
            fault = file.read_text()
            file.unlink()
            strike(fault, folder, samples)
        return base(samples)

    passes.PASSES["base"] = faulty


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
    sys.exit(main(int(sys.argv[2])))
