"""The options with which loops are compiled: that Inductor knows them, and what stays exact."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.kernels.test_gelu import check
from unified_latents.kernels import inductor
from unified_latents.kernels.gelu import gelu


@pytest.mark.slow
def test_a_compiled_gelu_is_as_close_to_the_truth() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(torch.compile(gelu, options=inductor.OPTIONS))
