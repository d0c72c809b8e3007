from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from unified_latents.training.flops import forward_flops, mm_flops_per_second, peak_flops


def test_a_product_is_two_operations_a_term() -> None:
    x = torch.rand(5, 7)
    assert forward_flops(lambda: nn.Linear(7, 11)(x)) == 2 * 5 * 7 * 11


def test_a_convolution_counts_every_tap() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert forward_flops(lambda: nn.Conv2d(3, 4, 3, padding=1)(x)) == 2 * 2 * 64 * 4 * 3 * 9


def test_attention_counts_its_two_products() -> None:
    q = torch.rand(2, 3, 16, 8)
    flops = forward_flops(lambda: F.scaled_dot_product_attention(q, q, q))
    assert flops == 2 * (2 * 2 * 3 * 16 * 16 * 8)


def test_the_peak_is_a_measured_rate() -> None:
    device = torch.device("cpu")
    assert mm_flops_per_second(32, device) > 0
    assert peak_flops(device, sizes=(16, 32), repeats=2) > 0
