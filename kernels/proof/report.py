"""What the compiled kernels must satisfy, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from unified_latents.kernels.proof.ahead import (
    MAX_REGISTERS,
    MAX_SHARED,
    REGISTER_FILE,
    Compiled,
    Machine,
    launches,
    read,
)
from unified_latents.kernels.proof.case import Case

PRODUCTS = ("attend_kernel", "queries_kernel", "keys_kernel")
TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTC[A-Z]*MMA"}
_ANY_TENSOR_CORE = r"(HMMA|HGMMA|UTC[A-Z]*MMA|QMMA|OMMA)"
_WIDE = r"LDG\..*(128|256)"


Task = tuple[Case, int]
"""A case and a compute capability."""


@dataclass(frozen=True)
class Row:
    """One kernel of one case for one compute capability."""

    case: str
    kernel: str
    capability: int
    warps: int
    registers: int
    shared: int
    spilled: int
    instructions: str
    """What the machine code shows: tensor-core products or wide loads."""
    problems: tuple[str, ...]


def judged(case: Case, kernel: Compiled, machine: Machine, capability: int) -> Row:
    """The kernel beside its limits."""
    problems = []
    if machine.spilled:
        problems.append(f"{machine.spilled} bytes spilled")
    threads = 32 * kernel.warps
    if machine.registers > MAX_REGISTERS or machine.registers * threads > REGISTER_FILE:
        problems.append(f"{machine.registers} registers a thread")
    if kernel.shared > MAX_SHARED[capability]:
        problems.append(f"{kernel.shared} bytes of shared memory")
    look = _products if kernel.name in PRODUCTS else _loads
    instructions, faults = look(case, machine, capability)
    return Row(
        case=case.title,
        kernel=kernel.name,
        capability=capability,
        warps=kernel.warps,
        registers=machine.registers,
        shared=kernel.shared,
        spilled=machine.spilled,
        instructions=instructions,
        problems=(*problems, *faults),
    )


def _products(case: Case, machine: Machine, capability: int) -> tuple[str, list[str]]:
    """Half precision multiplies on tensor cores; fp32 does not, or it would be TF32."""
    used = machine.kinds(_ANY_TENSOR_CORE)
    if case.dtype.itemsize == 4:
        return "FFMA", [f"fp32 products on {used[0]}"] if used else []
    if not used:
        return "FFMA", ["no tensor-core instruction"]
    if machine.count(TENSOR_CORES[capability]):
        return used[0], []
    wanted = TENSOR_CORES[capability].replace("[A-Z]*", "…")
    return f"{used[0]} (its tiles have fewer rows than {wanted} takes)", []


def _loads(case: Case, machine: Machine, capability: int) -> tuple[str, list[str]]:
    """Rows are read 128 bits at a time, or more; normals alone read only their keys."""
    wide = machine.count(_WIDE)
    if wide:
        return f"{wide} × LDG.128", []
    stored = machine.count(r"STG\..*(128|256)")
    if case.label == "normal" and stored:
        return f"{stored} × STG.128", []
    return "", ["no 128-bit load"]


def compiled(case: Case, capability: int) -> list[Row]:
    """Every kernel of a case, once each."""
    with launches(capability) as found:
        case.run()
    unique = {(each.name, each.cubin): each for each in found}
    return [judged(case, each, read(each.cubin), capability) for each in unique.values()]


def survey(tasks: Sequence[Task], processes: int = 1) -> Iterator[list[Row]]:
    """Every task's rows, in order, by so many processes."""
    if processes == 1:
        yield from (compiled(*each) for each in tasks)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(compiled, *zip(*tasks, strict=True))
