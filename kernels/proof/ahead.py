"""Ahead-of-time compilation: what a launch on a GPU would compile, compiled without one and read.

The operators run as they are on tensors of the CPU; a driver that only names a target stands in
for CUDA's, and a launch ends once its kernel is compiled. So signatures, alignments and options
are Triton's own choice, as on the GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from unified_latents.kernels.fused import launch

CAPABILITIES = (80, 90, 100)
MAX_REGISTERS = 255
REGISTER_FILE = 65_536
"""Registers of a multiprocessor: a program's threads share them."""
MAX_SHARED = {80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes of shared memory that one program may use (CUDA programming guide)."""


class Compiled(NamedTuple):
    """A kernel as a launch would load it."""

    name: str
    warps: int
    shared: int
    """Bytes, the dynamic part included."""
    cubin: bytes


class _Target:
    """As much of a driver as compiling asks for; the capability is the device's number, too."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@contextmanager
def launches(capability: int) -> Iterator[list[Compiled]]:
    """Inside, launches compile for a compute capability, are noted, and run nothing."""
    found: list[Compiled] = []
    run, devices, before = JITFunction.run, launch.devices, driver._active

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        data = kernel.metadata
        found.append(Compiled(self.__name__, data.num_warps, data.shared, kernel.asm["cubin"]))
        return kernel

    JITFunction.run, launch.devices = compile_only, lambda kernel: ("cpu", "cuda")
    driver.set_active(_Target(capability))
    try:
        yield found
    finally:
        JITFunction.run, launch.devices = run, devices
        driver.set_active(before)


@dataclass(frozen=True)
class Machine:
    """What the machine code says of a kernel."""

    registers: int
    """Of one thread."""
    spilled: int
    """Bytes of a thread's stack and local memory: where registers are spilled to."""
    opcodes: Counter[str]

    def count(self, pattern: str) -> int:
        """Instructions whose opcode, modifiers included, matches."""
        return sum(n for code, n in self.opcodes.items() if re.match(pattern, code))

    def kinds(self, pattern: str) -> list[str]:
        """Opcodes that match, without modifiers, each once."""
        return sorted({code.split(".")[0] for code in self.opcodes if re.match(pattern, code)})


def read(cubin: bytes) -> Machine:
    """Resource usage and instructions, by the CUDA tools in Triton's own wheel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("-res-usage", path)
        code = _tool("-sass", path)
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code)
    return Machine(found["REG"], found["STACK"] + found["LOCAL"], Counter(opcodes))


def _tool(option: str, path: Path) -> str:
    command = [knobs.nvidia.cuobjdump.path, option, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
