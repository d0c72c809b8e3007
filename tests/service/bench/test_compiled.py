"""The bench of compiled passes, without a compiler's minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unified_latents.service.bench.compiled import contest, networks
from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.stepper.catalogue import load

ROWS = (2, 3)


@pytest.mark.parametrize("stage", ["base", "decode"])
def test_every_pass_is_compared_and_changed_bytes_are_seen(tiny: Path, stage: str) -> None:
    """The network itself in the place of its compiled form, and one whose rows know each other."""
    network = networks(load(Checkpoint("bench", str(tiny)), "cpu"), max(ROWS))[stage]

    def mixing(*inputs: Tensor) -> Tensor:
        made: Tensor = network.module(*inputs)
        return made + made.mean(0)

    with torch.inference_mode():
        same, mixed = (contest(stage, network, ROWS, 2, way) for way in (network.module, mixing))
    for lines in (same, mixed):
        assert [line.split()[:2] for line in lines] == [[stage, str(n)] for n in ROWS]
        assert all("×" in line for line in lines)
    for line in same:
        eager, compiled = line.rsplit("   ", 1)[1].split(", ")
        assert eager == compiled
    assert mixed[0].endswith(", no")
    assert mixed[1].endswith(", yes")
