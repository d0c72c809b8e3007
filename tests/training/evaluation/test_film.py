from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unified_latents.training.evaluation.distances import frechet, moments
from unified_latents.training.evaluation.film import LAGS, Reference, blocks


def walks(n: int, seed: int, speed: float = 1.0) -> Tensor:
    """Features that drift: [n, 12, 40], each clip from its own place in its own direction."""
    noise = torch.Generator().manual_seed(seed)
    start, direction = (torch.randn(n, 1, 40, generator=noise) for _ in range(2))
    time = torch.arange(12.0)[:, None]
    return start + speed * time * direction + 0.1 * torch.randn(n, 12, 40, generator=noise)


def test_blocks_by_hand() -> None:
    """Two features: one stands still at 3, one climbs by 2 a frame."""
    time = torch.arange(6.0)
    clip = torch.stack((torch.full((6,), 3.0), 2 * time), 1)[None]
    mean, change, profile = blocks(clip)
    assert mean.tolist() == [[3, 5]]
    assert change.tolist() == [[0, 2]]
    lags = torch.tensor([lag for lag in LAGS if lag < 6])
    torch.testing.assert_close(profile, (2.0 * lags + 0.01).log()[None])


def test_the_same_clips_have_no_distance() -> None:
    clips = walks(200, 0)
    assert Reference.of(clips).distance(clips) == pytest.approx(0, abs=1e-6)


def test_other_clips_of_a_kind_are_near_and_still_or_slow_ones_far() -> None:
    reference = Reference.of(walks(400, 0))
    floor = reference.distance(walks(400, 1))
    still = walks(400, 1)[:, :1].expand(-1, 12, -1)
    slow = walks(400, 1, speed=0.3)
    noisy = walks(400, 1) + 2 * torch.randn(400, 12, 40)
    for worse in (still, slow, noisy):
        assert reference.distance(worse) > 5 * floor


def test_backwards_is_the_same() -> None:
    reference, clips = Reference.of(walks(200, 0)), walks(200, 1)
    assert reference.distance(clips.flip(1)) == pytest.approx(reference.distance(clips), rel=1e-6)


def test_it_is_frechets_in_the_references_frame() -> None:
    """Of clips that differ from the reference by a shift of all frames: the shift, projected."""
    clips = walks(300, 0)
    reference = Reference.of(clips)
    shift = torch.zeros(40)
    shift[3] = 0.5
    mean, axes, scale = reference.frames[0]
    want = ((shift.double() @ axes) / scale).square().sum().item()
    assert reference.distance(clips + shift) == pytest.approx(want, rel=1e-4)
    with pytest.raises(ValueError, match="two rows"):
        frechet(reference.moments, moments(torch.zeros(1, 3)))
    assert mean.shape == (40,)
