"""The canary: repeats itself, and notices a change in any network that makes a picture."""

from __future__ import annotations

import pytest
import torch

from tests.models.conftest import Awaken
from unified_latents.models import canary
from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.unified import UnifiedLatents

Healthy = tuple[UnifiedLatents, BaseModel]


@pytest.fixture
def healthy(tiny: UnifiedConfig, tiny_base: BaseConfig, awaken: Awaken) -> Healthy:
    return awaken(UnifiedLatents(tiny)), awaken(BaseModel(tiny_base), 1)


def test_passes_on_itself(healthy: Healthy) -> None:
    report = canary.compare(canary.record(*healthy), canary.record(*healthy))
    assert report.ok
    assert (report.latent_error, report.image_error) == (0, 0)


def test_records_a_latent_of_each_kind_and_a_picture(healthy: Healthy) -> None:
    unified, base = healthy
    record = canary.record(unified, base)
    assert set(record) == {"z_clean", "z_0", "image"}
    assert record["z_0"].shape == record["z_clean"].shape == (1, *unified.config.latent_shape)
    assert record["image"].shape == (1, *unified.config.image_shape)
    assert record["image"].abs().max() <= 1
    assert set(canary.record(unified, None)) == {"z_clean", "image"}


def test_does_not_touch_the_global_stream(healthy: Healthy) -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    canary.record(*healthy)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("part", ["encoder", "decoder", "base"])
def test_notices_a_perturbed_network(healthy: Healthy, part: str) -> None:
    unified, base = healthy
    record = canary.record(unified, base)
    module = base if part == "base" else unified.get_submodule(part)
    for parameter in module.parameters():
        parameter.detach().mul_(1.05)
    assert not canary.compare(record, canary.record(unified, base)).ok


def test_notices_nan(healthy: Healthy) -> None:
    unified, base = healthy
    record = canary.record(unified, base)
    unified.decoder.get_parameter("output.bias").detach().fill_(torch.nan)
    assert not canary.compare(record, canary.record(unified, base)).ok


@pytest.mark.parametrize("name", ["z_clean", "z_0", "image"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_tensor_is_a_failure(healthy: Healthy, name: str, side: int) -> None:
    records = [canary.record(*healthy), canary.record(*healthy)]
    del records[side][name]
    assert not canary.compare(records[0], records[1]).ok


@pytest.mark.parametrize(
    ("name", "error", "ok"),
    [
        ("z_clean", 0.9e-3, True),
        ("z_clean", 1.1e-3, False),
        ("z_0", 1.1e-3, False),
        ("image", 1.9 / 127.5, True),
        ("image", 2.1 / 127.5, False),
    ],
)
def test_tolerances(healthy: Healthy, name: str, error: float, ok: bool) -> None:
    """Latents to 1e-3, pictures to two of 255 levels, by their worst element."""
    record = {key: value.clone() for key, value in canary.record(*healthy).items()}
    moved = {key: value.clone() for key, value in record.items()}
    moved[name].view(-1)[5] += error
    assert canary.compare(record, moved).ok is ok
    assert canary.compare(moved, record).ok is ok
