"""What the compiled kernels must satisfy, and whether they do."""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from unified_latents.kernels.proof.ahead import (
    CAPABILITIES,
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
        case=f"{case.operator} {case.label}".strip()
        + f", {str(case.dtype).removeprefix('torch.')}",
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
    return f"{used[0]} (its tiles have fewer rows than {TENSOR_CORES[capability]} takes)", []


def _loads(case: Case, machine: Machine, capability: int) -> tuple[str, list[str]]:
    """Rows are read 128 bits at a time, or more; normals alone read only their keys."""
    wide = machine.count(_WIDE)
    if wide:
        return f"{wide} × LDG.128", []
    stored = machine.count(r"STG\..*(128|256)")
    if case.label == "normal" and stored:
        return f"{stored} × STG.128", []
    return "", ["no 128-bit load"]


def _code(text: str) -> str:
    """A module without its comments and docstrings, which change no kernel."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return False
    return isinstance(node.value.value, str)


class Ledger:
    """Results that outlive an interrupted run: compiling everything takes a while."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        digest = hashlib.sha256(version("triton").encode())
        for each in sorted(source.glob("*.py")):
            digest.update(_code(each.read_text(encoding="utf-8")).encode())
        self._digest = digest.hexdigest()[:16]
        self._rows = self._read()

    def _read(self) -> dict[str, list[Row]]:
        if not self.path.exists():
            return {}
        found: dict[str, list[Row]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            rows = [Row(**{**row, "problems": tuple(row["problems"])}) for row in entry["rows"]]
            found[entry["key"]] = rows
        return found

    def key(self, case: Case, capability: int) -> str:
        """Changes with the kernels' source, with Triton, and with the case."""
        return f"{self._digest} {case.title} sm_{capability}"

    def get(self, case: Case, capability: int) -> list[Row] | None:
        """What an earlier run found."""
        return self._rows.get(self.key(case, capability))

    def add(self, case: Case, capability: int, rows: list[Row]) -> None:
        """Remember, on disk too."""
        key = self.key(case, capability)
        self._rows[key] = rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "rows": [asdict(row) for row in rows]}) + "\n")


def compiled(case: Case, capability: int) -> list[Row]:
    """Every kernel of a case, once each."""
    with launches(capability) as found:
        case.run()
    unique = {(each.name, each.cubin): each for each in found}
    return [judged(case, each, read(each.cubin), capability) for each in unique.values()]


def survey(
    cases: Iterable[Case], ledger: Ledger, deadline: float, note: Callable[[str], None]
) -> Iterator[tuple[Case, int, list[Row] | None]]:
    """Every case for every capability; None where the time was up before it could be compiled."""
    for case in cases:
        for capability in CAPABILITIES:
            rows = ledger.get(case, capability)
            if rows is None and time.monotonic() < deadline:
                note(f"{case.title}, sm_{capability}")
                rows = compiled(case, capability)
                ledger.add(case, capability, rows)
            yield case, capability, rows
