"""The limits of a compiled kernel, each of which can be broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from unified_latents.kernels.proof.ahead import CAPABILITIES, Compiled, Machine
from unified_latents.kernels.proof.case import Case
from unified_latents.kernels.proof.report import Row, judged

_ATTENTION = Case("attention", "head 64", torch.bfloat16, lambda: None)
_MODULATE = Case("modulate", "width 128", torch.float32, lambda: None)
_LOADS = Machine(40, 0, Counter({"LDG.E.128": 3, "STG.E.128": 1}))


def row(case: Case, name: str, machine: Machine, capability: int = 80, shared: int = 1024) -> Row:
    return judged(case, Compiled(name, 4, shared, b""), machine, capability)


def products(*opcodes: str) -> Machine:
    return Machine(200, 0, Counter(opcodes))


def test_a_good_kernel_has_no_problem() -> None:
    got = row(_MODULATE, "modulate_kernel", _LOADS)
    assert got.problems == ()
    assert got.instructions == "3 × LDG.128"
    assert got.case == "modulate width 128, float32"


@pytest.mark.parametrize(
    ("machine", "shared", "problem"),
    [
        (replace(_LOADS, spilled=8), 1024, "8 bytes spilled"),
        (replace(_LOADS, registers=256), 1024, "256 registers a thread"),
        (_LOADS, 166_913, "166913 bytes of shared memory"),
        (replace(_LOADS, opcodes=Counter({"LDG.E.64": 3})), 1024, "no 128-bit load"),
    ],
)
def test_every_limit_can_be_broken(machine: Machine, shared: int, problem: str) -> None:
    assert row(_MODULATE, "modulate_kernel", machine, shared=shared).problems == (problem,)


def test_registers_are_shared_by_all_threads() -> None:
    kernel = Compiled("modulate_kernel", 16, 0, b"")
    got = judged(_MODULATE, kernel, replace(_LOADS, registers=160), 80)
    assert got.problems == ("160 registers a thread",)


@pytest.mark.parametrize(
    ("capability", "opcode"), [(80, "HMMA.16816.F32"), (90, "HGMMA.64x64x16"), (100, "UTCHMMA")]
)
def test_half_precision_multiplies_on_tensor_cores(capability: int, opcode: str) -> None:
    got = row(_ATTENTION, "attend_kernel", products(opcode), capability)
    assert got.problems == ()
    assert got.instructions == opcode.split(".")[0]


def test_an_older_tensor_core_instruction_is_explained() -> None:
    got = row(_ATTENTION, "keys_kernel", products("HMMA.16816.F32"), 90)
    assert got.problems == ()
    assert "fewer rows than HGMMA takes" in got.instructions


def test_products_off_the_tensor_cores_and_tf32_are_problems() -> None:
    plain = products("FFMA", "HFMA2.MMA")
    assert row(_ATTENTION, "attend_kernel", plain).problems == ("no tensor-core instruction",)
    exact = _ATTENTION._replace(dtype=torch.float32)
    assert row(exact, "attend_kernel", plain).problems == ()
    for capability, opcode in zip(
        CAPABILITIES, ("HMMA.1684.F32.TF32", "HGMMA", "UTCHMMA"), strict=True
    ):
        (problem,) = row(exact, "attend_kernel", products(opcode), capability).problems
        assert problem.startswith("fp32 products on")
