from __future__ import annotations

from collections.abc import Sequence

import pytest

from unified_latents.training.control.collapse import Detector, Suspect
from unified_latents.training.errors import TrainingError

Trace = Sequence[tuple[int, float, float]]

# Step, bits a pixel, worth: runs of the fashion recipe on Fashion-MNIST, read every 20 to 40 steps.
PLANTED = (
    (0, 0.743, 0.0),
    (20, 0.705, 0.0027),
    (40, 0.638, 0.0235),
    (60, 0.301, 0.0109),
    (80, 0.097, 0.0148),
    (120, 0.040, 0.0024),
    (160, 0.032, 0.0016),
    (200, 0.024, 0.0006),
)
"""c_lf 1.5, b = 0, no warm-up."""
HEALTHY = (
    (0, 0.748, 0.0),
    (20, 0.730, 0.0386),
    (40, 0.690, 0.116),
    (60, 0.466, 0.281),
    (80, 0.323, 0.520),
    (120, 0.214, 0.624),
    (200, 0.194, 0.928),
    (320, 0.205, 1.267),
    (400, 0.167, 1.114),
    (1000, 0.085, 1.160),
)
"""c_lf 2, b = 2, the recipe's warm-up."""


def watch(trace: Trace, hold: int = 0) -> None:
    detector = Detector(Suspect(1.5, 0.0, hold))
    for done, rate, worth in trace:
        detector.observe(done, rate, worth)


def test_a_planted_collapse_is_named_with_its_figures_and_its_cure() -> None:
    with pytest.raises(TrainingError) as caught:
        watch(PLANTED)
    told = str(caught.value)
    assert "collapsed by step 160" in told
    assert all(each in told for each in ("0.032", "0.0016", "--loss-factor", "1.5 now"))
    assert all(each in told for each in ("--decoder-bias", "0 now", "--encoder-warmup 300 1500"))


def test_a_run_that_starts_from_nothing_is_left_alone() -> None:
    watch(HEALTHY)


def test_nothing_collapses_while_the_encoder_hears_nothing() -> None:
    watch(PLANTED, hold=300)


def test_one_good_probe_starts_the_count_again() -> None:
    bad = [(done, 0.1, 0.01) for done in (100, 120)]
    watch([*bad, (140, 0.1, 0.3), *bad])
    with pytest.raises(TrainingError):
        watch([*bad, (140, 0.1, 0.03)])


def test_a_state_resumes_exactly() -> None:
    one, other = (Detector(Suspect(1.5, 0.0, 0)) for _ in range(2))
    for done in (100, 120):
        one.observe(done, 0.1, 0.0)
    other.load_state_dict(one.state_dict())
    with pytest.raises(TrainingError, match="step 140"):
        other.observe(140, 0.1, 0.0)
