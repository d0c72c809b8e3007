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
def test_the_bench_says_that_there_is_no_gpu() -> None:
    done = run("bench")
    assert done.returncode == 2
    assert done.stdout == (
        "ul-kernels bench: this machine has no CUDA device; there is nothing to time\n"
    )


@pytest.mark.slow
def test_a_check_without_time_names_all_that_is_left(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    done = run("check", "--minutes", "0", "--out", str(out), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1, done.stderr
    text = out.read_text()
    assert text in done.stdout
    assert "0 compilations, 0 within every limit" in text
    for name in ("attention head 128, context masked, float32, sm_100", "loss, float16, sm_80"):
        assert f"- {name}\n" in text


@pytest.mark.slow
def test_a_step_and_a_block_move_less_than_half_the_bytes_in_a_fraction_of_the_launches() -> None:
    found = traffic()
    assert len(found) == 3
    for name, ways in found.items():
        (launches, moved), (more_launches, more) = ways["fused"], ways["unfused"]
        assert 5 * launches < more_launches, name
        assert 2 * moved < more, name
