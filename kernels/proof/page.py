"""The report as a page: `kernels/REPORT.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from unified_latents.kernels.fused.source import digest
from unified_latents.kernels.proof.ahead import CAPABILITIES, MAX_SHARED
from unified_latents.kernels.proof.report import Row

_HEAD = """# What is known of the fused kernels

Written by `make kernels-report` (`ul-kernels check`). **Compiled and interpreted, not timed on a
GPU by us:** nothing below ran on one. Values and gradients are compared with fp64 in Triton's
interpreter by `tests/kernels/fused`. `ul-kernels bench` takes the times where there is a GPU.
"""

_BYTES = """## Launches and bytes

Fused: counted from the loads and stores of Triton's interpreter. Unfused: eager torch, one launch
an operator, its inputs read once and its outputs written once, noise from `torch.randn`.

| what | fused: launches | MB | unfused: launches | MB |
|---|---|---|---|---|
"""

_COMPILED = """## Compiled ahead of time

Triton {triton}, default configurations with the options that a launch on a GPU would get. Each
cell: registers a thread × threads, KiB of shared memory, and what `cuobjdump -sass` shows. Spills
are the bytes of stack and local memory that `cuobjdump -res-usage` reads from the cubin; limits are
255 registers a thread, 65 536 a multiprocessor, and {shared} KiB of shared memory.
Half-precision products must be on tensor cores, fp32 products must not (they would be TF32), and
all other kernels must load 128 bits at a time. Digest of the kernels: {kernels}.
"""


def page(
    rows: Sequence[Row], missing: Sequence[str], moved: Mapping[str, Mapping[str, Sequence[int]]]
) -> str:
    """The whole page; `missing` names the cases that were not compiled."""
    parts = [_HEAD, _summary(rows, missing), _BYTES + "\n".join(_traffic(moved)) + "\n"]
    shared = ", ".join(f"{MAX_SHARED[each] // 1024} (sm_{each})" for each in CAPABILITIES)
    parts.append(_COMPILED.format(triton=version("triton"), shared=shared, kernels=digest()))
    parts.append("\n".join(_table(rows)) + "\n")
    if missing:
        parts.append("### Not compiled\n\n" + "\n".join(f"- {each}" for each in missing) + "\n")
    return "\n".join(parts)


def _summary(rows: Sequence[Row], missing: Sequence[str]) -> str:
    faults = [f"- {_where(row)}: {'; '.join(row.problems)}" for row in rows if row.problems]
    total = f"{len(rows)} compilations, {len(rows) - len(faults)} within every limit"
    left = f"; {len(missing)} cases not compiled, named below" if missing else ""
    spilled = sum(row.spilled for row in rows)
    return "\n".join([f"{total}, {spilled} bytes spilled in all{left}.", *faults, ""])


def _where(row: Row) -> str:
    return f"{row.case}: {row.kernel} on sm_{row.capability}"


def _traffic(moved: Mapping[str, Mapping[str, Sequence[int]]]) -> Iterable[str]:
    for name, ways in moved.items():
        cells = " | ".join(f"{ways[way][0]} | {ways[way][1] / 1e6:.2f}" for way in ways)
        yield f"| {name} | {cells} |"


def _table(rows: Sequence[Row]) -> Iterable[str]:
    yield "| case | kernel | " + " | ".join(f"sm_{each}" for each in CAPABILITIES) + " |"
    yield "|---|---" + "|---" * len(CAPABILITIES) + "|"
    lines: dict[tuple[str, str, int], dict[int, str]] = {}
    for row in rows:
        place = 0
        while row.capability in lines.get((row.case, row.kernel, place), {}):
            place += 1
        cell = f"{row.registers} × {32 * row.warps}, {row.shared / 1024:.1f}, {row.instructions}"
        lines.setdefault((row.case, row.kernel, place), {})[row.capability] = cell
    for (case, kernel, _), cells in lines.items():
        columns = " | ".join(cells.get(each, "") for each in CAPABILITIES)
        yield f"| {case} | `{kernel}` | {columns} |"
