"""The tuner under the interpreter, with a timer that is told what to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from triton.runtime.errors import OutOfResources

from unified_latents.kernels.fused import attention, tiles
from unified_latents.kernels.proof import tune
from unified_latents.kernels.proof.tune import fastest, times


def given() -> Mapping[str, tuple[int, ...]]:
    return tiles._CHOICE.given


def test_every_kernel_and_size_has_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs, with each of its choices; no test ever times one."""
    monkeypatch.setattr(tune, "WIDTHS", (32,))
    names = []
    for trial in tune.trials("cpu", (3,), rows=1):
        names.append(trial.name)
        seen: list[Mapping[str, tuple[int, ...]]] = []

        def timer(
            run: Callable[[], object], seen: list[Mapping[str, tuple[int, ...]]] = seen
        ) -> float:
            seen.append(given())
            run()
            return float(len(seen))

        assert list(times(trial, timer)) == list(trial.space)
        assert seen == [{trial.name: each} for each in trial.space]
    heads = [
        f"{kernel} {head}"
        for head in attention.HEAD_DIMS
        for kernel in ("attend", "queries", "keys")
    ]
    sizes = [*heads, "modulate 32"]
    assert names == [f"{each}, {dtype}" for dtype in ("float32", "bfloat16") for each in sizes]
    assert given() == {}


def test_what_does_not_fit_the_card_is_left_out() -> None:
    trial = next(tune.trials("cpu", (3,), rows=1))
    first, *rest = trial.space

    def timer(run: Callable[[], object]) -> float:
        if given() == {trial.name: first}:
            raise OutOfResources(2, 1, "shared memory")
        return 1.0

    found = times(trial, timer)
    assert list(found) == rest
    assert fastest(found) == rest[0]


def test_the_fastest_is_the_least_time() -> None:
    assert fastest({(1, 2): 3.0, (3, 4): 1.0, (5, 6): 1.0}) == (3, 4)
