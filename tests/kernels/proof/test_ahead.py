"""A few kernels compiled for real, in a process without checks of shapes; `make kernels-report`
compiles them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from unified_latents.kernels.proof.ahead import Machine

_CODE = """
import json
import torch
from unified_latents.kernels.proof import cases
from unified_latents.kernels.proof.report import compiled
from dataclasses import asdict
from unified_latents.kernels.proof.case import Case
half, single = torch.bfloat16, torch.float32
chosen = [(80, Case("loss", "", half, lambda: cases.weighted(half))),
          (90, Case("noise", "step", single, lambda: cases.stepped(single, "some"))),
          (100, Case("noise", "normal", single, cases.drawn))]
rows = [asdict(row) for capability, case in chosen for row in compiled(case, capability)]
print(json.dumps(rows))
"""


@pytest.mark.slow
def test_representative_kernels_compile_within_every_limit() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CODE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    found = {(row["kernel"], row["capability"]) for row in rows}
    assert found == {
        ("loss_kernel", 80),
        ("loss_backward_kernel", 80),
        ("step_kernel", 90),
        ("normal_kernel", 100),
    }
    assert {row["kernel"]: row["problems"] for row in rows if row["problems"]} == {}
    assert all(0 < row["registers"] <= 255 for row in rows)


def test_instructions_are_counted_with_their_modifiers() -> None:
    machine = Machine(10, 0, Counter({"LDG.E.128": 2, "LDG.E": 5, "HFMA2.MMA": 1, "HMMA.16816": 4}))
    assert machine.count(r"LDG\..*128") == 2
    assert machine.count("LDG") == 7
    assert machine.kinds("HMMA") == ["HMMA"]
