"""The real engine with a planted fault: argv is a folder, and the pipe's number.

The file `fault` in the folder names the fault, and each but the poison happens once: its file is
removed first. The poison is every request of seed 666, at its second pass.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unified_latents.service.stepper import passes
from unified_latents.service.stepper.process import main

POISON = 666


def strike(fault: str) -> None:
    if fault == "raise":
        raise RuntimeError("an injected fault")
    if fault == "memory":
        raise MemoryError
    if fault == "slow":
        threading.Event().wait(1.0)
        return
    if fault == "sleep":
        threading.Event().wait()
    if fault == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)


def plant(folder: Path) -> None:
    base = passes.PASSES["base"]

    def faulty(samples: Sequence[Any]) -> Any:
        if any(s.job.request.seed == POISON and s.job.done for s in samples):
            os._exit(4)
        file = folder / "fault"
        if file.exists() and len(samples) > 2:
            fault = file.read_text()
            file.unlink()
            strike(fault)
        return base(samples)

    passes.PASSES["base"] = faulty


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
    sys.exit(main(int(sys.argv[2])))
