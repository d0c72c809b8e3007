"""Which version runs, on a machine without CUDA and where a test or a setting forces one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from unified_latents.kernels import dispatch
from unified_latents.kernels import modulate as reference


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_cpu_runs_the_reference() -> None:
    x, shift, scale = draw(2, 5, 16), draw(2, 16, seed=1), draw(2, 16, seed=2)
    assert not dispatch.fuses(x)
    assert dispatch.kernel_set("cpu") == "reference"
    assert torch.equal(dispatch.modulate(x, shift, scale), reference.modulate(x, shift, scale))


def test_the_override_ends_with_its_block_even_after_an_error() -> None:
    x = draw(1)
    with dispatch.forced(fused=True):
        assert dispatch.fuses(x)
        assert dispatch.kernel_set("cpu").startswith("triton 3.")
        with dispatch.forced(fused=False):
            assert not dispatch.fuses(x)
        assert dispatch.fuses(x)
    with pytest.raises(KeyError), dispatch.forced(fused=True):
        raise KeyError
    assert not dispatch.fuses(x)


def test_cuda_runs_the_reference_only_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known of a device that is not there: what a service on it would count and show."""
    assert dispatch.fallback("cpu") is None
    assert dispatch.fallback("cuda") is None
    assert dispatch.kernel_set("cuda:1").startswith("triton 3.")
    with dispatch.forced(fused=False):
        assert dispatch.fallback("cuda") == "forced"
        assert dispatch.kernel_set("cuda") == "reference"
        with dispatch.forced(fused=None):
            assert dispatch.fallback("cuda") is None
    monkeypatch.setattr(dispatch._CHOICE, "available", False)
    assert dispatch.fallback(torch.device("cuda", 0)) == "no_triton"
    assert dispatch.fallback("cpu") is None


def test_a_device_outside_the_set_is_an_error_that_names_both() -> None:
    """Compiled kernels on a CPU: no silent fallback. In a process without checks of shapes."""
    code = (
        "import torch\n"
        "from unified_latents.kernels import dispatch\n"
        "with dispatch.forced(fused=True):\n"
        "    dispatch.modulate(torch.ones(2, 5, 16), torch.ones(2, 16), torch.ones(2, 16))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "UnsupportedError: device cpu is not supported" in done.stderr
    assert "use cuda" in done.stderr
