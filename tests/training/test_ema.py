from __future__ import annotations

import pytest
import torch
from torch import nn

from unified_latents.training.ema import Ema, decay


def test_the_decay_ramps_up_to_its_limit() -> None:
    assert decay(0, 0.999) == pytest.approx(0.1)
    assert decay(90, 0.999) == pytest.approx(0.91)
    assert decay(10**6, 0.999) == 0.999


def test_the_average_is_the_recursion() -> None:
    module = nn.Linear(3, 2)
    ema = Ema(module, 0.5)
    expected = module.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            module.weight.add_(step + 1.0)
        ema.update(module, step)
        d = min(0.5, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * module.weight.detach()
    torch.testing.assert_close(ema.module.get_parameter("weight"), expected)


def test_the_average_neither_trains_nor_drops() -> None:
    ema = Ema(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train(), 0.9)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_a_state_goes_into_another_average() -> None:
    one, other = Ema(nn.Linear(2, 2), 0.9), Ema(nn.Linear(2, 2), 0.9)
    other.load_state_dict(one.state_dict())
    for name, value in one.module.named_parameters():
        assert torch.equal(value, other.module.get_parameter(name))


@pytest.mark.parametrize("limit", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="EMA decay"):
        Ema(nn.Linear(1, 1), limit)
