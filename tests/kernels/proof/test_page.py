"""The page says what was found, what broke a limit and what was not compiled."""

from __future__ import annotations

from dataclasses import replace

from unified_latents.kernels.proof.page import page
from unified_latents.kernels.proof.report import Row

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
