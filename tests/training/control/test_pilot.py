from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unified_latents.training.control.bitrate import Controller, Plan
from unified_latents.training.control.collapse import Detector, Suspect
from unified_latents.training.control.pilot import Pilot, Probe, mixed_up
from unified_latents.training.errors import TrainingError


def pilot(target: float | None = None) -> Pilot:
    controller = None if target is None else Controller(Plan(target, 0, 200), 5.0)
    return Pilot(5.0, controller, Detector(Suspect(5.0, 2.0, 0)))


def same(values: Tensor) -> Tensor:
    return values


def test_a_run_without_a_target_keeps_its_factor() -> None:
    fixed = pilot()
    for done in range(20, 200, 20):
        fixed.add(torch.tensor(0.1))
        fixed.follow(done, Probe(0.1, 0.1, 1.0), same)
    assert (fixed.loss_factor, fixed.figures()) == (5.0, {})


def test_the_controller_sees_the_mean_over_steps_and_ranks() -> None:
    steered = pilot(0.05)
    assert steered.controller is not None
    for rate in (0.1, 0.3):
        steered.add(torch.tensor(rate))
    steered.follow(20, Probe(0.4, 0.2, 1.0), lambda mean: mean / 2)
    assert steered.controller.rate == pytest.approx(0.1 / 2)
    assert steered.figures()["target_bits"] == 0.05


def test_it_looks_often_early_and_while_it_steers() -> None:
    assert [done for done in range(1, 200) if pilot().due(done)] == list(range(20, 200, 20))
    assert [done for done in range(1001, 1400) if pilot().due(done)] == [1100, 1200, 1300]
    steered = Pilot(5.0, Controller(Plan(0.1, 0, 2000), 5.0), Detector(Suspect(5.0, 2.0, 0)))
    assert steered.due(1220)
    assert not steered.due(2020)


def test_a_state_resumes_in_the_middle_of_a_window() -> None:
    one, other = pilot(0.05), pilot(0.05)
    one.add(torch.tensor(0.1))
    one.follow(20, Probe(0.1, 0.09, 0.0), same)
    one.add(torch.tensor(0.2))
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.add(torch.tensor(0.3))
        each.follow(40, Probe(0.2, 0.2, 0.0), same)
    assert one.state_dict() == other.state_dict()
    assert one.loss_factor == other.loss_factor < 5


def test_a_collapse_ends_the_run() -> None:
    fixed, deaf = pilot(), Probe(0.1, 0.1, 0.0)
    for done in (80, 100):
        fixed.follow(done, deaf, same)
    with pytest.raises(TrainingError, match="collapsed by step 120"):
        fixed.follow(120, deaf, same)


def test_every_row_is_decoded_with_its_neighbours_latent() -> None:
    class Decoder(nn.Module):
        def forward(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor) -> Tensor:
            return x_t + z_0

    decoder, x, z = Decoder(), torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    with mixed_up(decoder):
        assert decoder(x, x, z).tolist() == [3, 1, 2]
    assert decoder(x, x, z).tolist() == [1, 2, 3]
