"""8-bit pixels to [−1, 1] and back."""

from __future__ import annotations

import torch

from unified_latents.models.pixels import from_unit, to_unit

_ALL = torch.arange(256).to(torch.uint8)


def test_ends_and_spacing() -> None:
    unit = to_unit(_ALL)
    assert unit.dtype == torch.float32
    assert (unit[0].item(), unit[255].item()) == (-1.0, 1.0)
    torch.testing.assert_close(unit.diff(), torch.full((255,), 2 / 255))


def test_every_value_comes_back() -> None:
    assert torch.equal(from_unit(to_unit(_ALL)), _ALL)


def test_rounds_to_nearest_and_clamps() -> None:
    near = to_unit(_ALL)[1:-1]
    for shift in (-0.49, 0.49):
        assert torch.equal(from_unit(near + shift / 127.5), _ALL[1:-1])
    assert from_unit(torch.tensor([-7.0, 7.0, -torch.inf, torch.inf])).tolist() == [0, 255, 0, 255]


def test_half_precision_is_rounded_in_fp32() -> None:
    assert from_unit(torch.tensor([0.5], dtype=torch.bfloat16)).tolist() == [191]
