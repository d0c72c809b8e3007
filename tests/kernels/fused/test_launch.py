"""What every launch asks of its tensors. `meta` stands for another device."""

from __future__ import annotations

import pytest
import torch

from unified_latents.kernels.errors import UnsupportedError
from unified_latents.kernels.fused.launch import MAX_ROWS, check, per_row
from unified_latents.kernels.fused.loss import loss_kernel


def test_dtypes_devices_and_shapes_are_named_with_what_is_supported() -> None:
    x = torch.zeros(2, 3)
    check(loss_kernel, x, x.bfloat16(), x.half())
    with pytest.raises(UnsupportedError, match=r"dtype torch\.int64 .*float32, .*float16, .*bf"):
        check(loss_kernel, x, x.long())
    with pytest.raises(UnsupportedError, match=r"device meta .*use cpu, cuda"):
        check(loss_kernel, x, x.to("meta"))
    with pytest.raises(UnsupportedError, match=r"device cpu .*use cuda"):
        check(object(), x)
    for shape in ((), (0, 3), (2, 0), (MAX_ROWS + 1, 1), (1, 2**31)):
        with pytest.raises(UnsupportedError, match=r"shape .* 1 to 65535 rows of 1 to 2147483647"):
            check(loss_kernel, torch.zeros(()).expand(shape))


def test_a_row_s_number_is_there_and_on_its_device() -> None:
    x = torch.zeros(2, 3)
    per_row(x, rate=torch.zeros(2))
    with pytest.raises(UnsupportedError, match=r"shape of rate \(3,\) .*use \(2,\)"):
        per_row(x, rate=torch.zeros(3))
    with pytest.raises(UnsupportedError, match=r"device of rate meta .*use cpu"):
        per_row(x, rate=torch.zeros(2, device="meta"))
