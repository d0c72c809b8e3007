"""The command line, as a user runs it on a machine without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unified_latents.kernels.proof.command import traffic


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "unified_latents.kernels.proof.command", *arguments]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to time")
@pytest.mark.parametrize("name", ["bench", "tune"])
def test_there_is_no_gpu_to_time(name: str) -> None:
    done = run(name)
    assert done.returncode == 2
    assert done.stdout == (
        f"ul-kernels {name}: this machine has no CUDA device; there is nothing to time\n"
    )


@pytest.mark.slow
def test_a_check_of_one_case_names_all_others(tmp_path: Path) -> None:
    """Compiled for real, by two processes, into a cache of its own."""
    out = tmp_path / "page.md"
    arguments = ("check", "--only", "noise normal", "--processes", "2", "--out", str(out))
    done = run(*arguments, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert text in done.stdout
    assert "3 compilations, 3 within every limit, 0 bytes spilled in all; " in text
    assert "| noise normal, float32 | `normal_kernel` |" in text
    for name in ("attention head 128, context masked, float32", "loss, float16"):
        assert f"- {name}\n" in text


def test_a_check_of_nothing_is_refused() -> None:
    done = run("check", "--only", "nonsense")
    assert done.returncode == 2
    assert "'nonsense' is in no case's name" in done.stderr


@pytest.mark.slow
def test_a_step_and_a_block_move_less_than_half_the_bytes_in_a_fraction_of_the_launches() -> None:
    found = traffic()
    assert len(found) == 3
    for name, ways in found.items():
        (launches, moved), (more_launches, more) = ways["fused"], ways["unfused"]
        assert 5 * launches < more_launches, name
        assert 2 * moved < more, name
