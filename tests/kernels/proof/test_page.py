"""The page says what was found, what broke a limit and what was not compiled; and the page that is
committed is the proof, of these kernels and of every case."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from unified_latents.kernels.fused.source import digest
from unified_latents.kernels.proof.ahead import CAPABILITIES, MAX_REGISTERS, MAX_SHARED
from unified_latents.kernels.proof.page import page
from unified_latents.kernels.proof.report import PRODUCTS, TENSOR_CORES, Row

_COMMITTED = (Path(__file__).parents[3] / "kernels" / "REPORT.md").read_text(encoding="utf-8")
_TITLES = """
import json
from unified_latents.kernels.proof.cases import every
print(json.dumps([each.title for each in every()]))
"""
_ROW = Row("loss, float32", "loss_kernel", 80, 4, 32, 2048, 0, "2 × LDG.128", ())
_MOVED = {"a step": {"fused": [1, 2_000_000], "unfused": [9, 8_000_000]}}


def test_a_kernel_is_a_line_with_a_cell_a_card() -> None:
    text = page([_ROW, replace(_ROW, capability=90, registers=40)], [], _MOVED)
    first, second = "32 × 128, 2.0, 2 × LDG.128", "40 × 128, 2.0, 2 × LDG.128"
    assert f"| loss, float32 | `loss_kernel` | {first} | {second} |  |" in text
    assert "2 compilations, 2 within every limit, 0 bytes spilled in all.\n" in text
    assert "| a step | 1 | 2.00 | 9 | 8.00 |" in text
    assert "not timed on a\nGPU by us" in text


def test_two_versions_of_a_kernel_in_one_case_get_a_line_each() -> None:
    text = page([_ROW, replace(_ROW, registers=99)], [], {})
    assert text.count("`loss_kernel`") == 2


def test_faults_and_gaps_are_named_first() -> None:
    bad = replace(_ROW, spilled=8, problems=("8 bytes spilled",))
    text = page([_ROW, bad], ["attention head 64, float32, sm_80"], {})
    assert "2 compilations, 1 within every limit, 8 bytes spilled in all; 1 cases not" in text
    assert "- loss, float32: loss_kernel on sm_80: 8 bytes spilled" in text
    assert "### Not compiled\n\n- attention head 64, float32, sm_80" in text


def lines() -> list[list[str]]:
    """The committed table: case, kernel, and a cell a card."""
    table = _COMMITTED.split("## Compiled ahead of time")[1]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[1:]]


def test_the_committed_page_is_of_these_kernels() -> None:
    """One that is not says: run `make kernels-report`."""
    assert f"Digest of the kernels: {digest()}." in _COMMITTED


def test_the_committed_page_holds_every_case_and_nothing_else() -> None:
    """In a process without checks of shapes, under which kernels cannot be defined."""
    done = subprocess.run([sys.executable, "-P", "-c", _TITLES], capture_output=True, check=True)
    titles = json.loads(done.stdout)
    assert len(titles) == len(set(titles))
    assert {case for case, *_ in lines()} == set(titles)
    for title in (each for each in titles if each.startswith("attention")):
        kernels = {kernel for case, kernel, *_ in lines() if case == title}
        assert kernels == {*PRODUCTS, "norm_kernel"}
    assert all(len(cells) == len(CAPABILITIES) and all(cells) for _, _, *cells in lines())
    assert "Not compiled" not in _COMMITTED


def test_the_committed_page_is_within_every_limit() -> None:
    pattern = r"^(\d+) compilations, (\d+) within every limit, 0 bytes spilled in all\.$"
    [(compiled, good)] = re.findall(pattern, _COMMITTED, flags=re.MULTILINE)
    assert int(compiled) == int(good) == len(CAPABILITIES) * len(lines())


@pytest.mark.parametrize(("column", "capability"), list(enumerate(CAPABILITIES)))
def test_every_committed_cell_is_within_its_limits(column: int, capability: int) -> None:
    """fp32 products without tensor cores, which would make them TF32; half ones on them."""
    for case, kernel, *cells in lines():
        usage, shared, instructions = cells[column].split(", ")
        registers, threads = map(int, usage.split(" × "))
        assert registers <= MAX_REGISTERS
        assert registers * threads <= 65_536
        assert 1024 * float(shared) <= MAX_SHARED[capability]
        if kernel not in PRODUCTS:
            assert instructions.endswith(".128")
        elif case.endswith("float32"):
            assert instructions == "FFMA"
        else:
            own = re.fullmatch(TENSOR_CORES[capability], instructions)
            assert own or "fewer rows than" in instructions
