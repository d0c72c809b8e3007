"""The fused kernels under Triton's interpreter, in a process of their own.

TRITON_INTERPRET is read when a kernel is defined, and the checks of shapes that every other test
runs under wrap functions, which Triton cannot compile: so neither may be in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


FILES = sorted((ROOT / "tests/kernels/fused").glob("test_*.py"))
FILES += [ROOT / "tests/kernels/proof" / name for name in ("test_contenders.py", "test_tune.py")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interpreted() -> None:
    files = [str(file.relative_to(ROOT)) for file in FILES]
    command = [sys.executable, "-P", "-m", "pytest", "-q", *files]
    command += ["-o", "addopts=--import-mode=importlib --strict-markers --strict-config"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_imports_no_triton() -> None:
    """Start-up time and memory of a service on a CPU do not pay for kernels that it never runs."""
    code = (
        "import sys; before = 'triton' in sys.modules\n"
        "import unified_latents.models.base, unified_latents.models.unified\n"
        "import unified_latents.kernels.loss\n"
        "assert 'unified_latents.kernels.fused' not in sys.modules, 'the fused kernels'\n"
        "import torch; assert before == ('triton' in sys.modules), 'triton'"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, check=True)
