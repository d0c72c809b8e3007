"""The policy of hangs, round by round."""

from __future__ import annotations

from unified_latents.service.engine.watchdog import PERIOD, Watchdog

HANG, PATIENCE = 4 * PERIOD, 20 * PERIOD


def rounds(dog: Watchdog, n: int, *, working: bool = False, answer: float | None = 0.0) -> int:
    """Up to n rounds, each ping answered with a turn or not at all; how many pass without fault."""
    for done in range(n):
        if dog.round(working=working):
            return done
        if answer is not None:
            dog.heard()
            dog.answered(answer)
    return n


def watchdog() -> Watchdog:
    return Watchdog(HANG, PATIENCE)


def test_an_engine_that_answers_may_load_and_idle_forever() -> None:
    assert rounds(watchdog(), 1000) == 1000


def test_an_engine_that_has_said_nothing_yet_has_patience() -> None:
    assert rounds(watchdog(), 1000, answer=None) == PATIENCE / PERIOD + 1


def test_silence_shows_soon_and_ends_as_a_hang() -> None:
    dog = watchdog()
    dog.heard()
    assert rounds(dog, 2, answer=None) == 2
    assert not dog.silent
    assert rounds(dog, 1, answer=None) == 1
    assert dog.silent
    assert 3 * PERIOD < 2  # seconds within which health must tell the truth
    assert rounds(dog, 1000, answer=None) == HANG / PERIOD + 1 - 3
    dog.heard()
    assert not dog.silent


def test_work_without_a_pass_is_a_hang_although_the_engine_answers() -> None:
    assert rounds(watchdog(), 1000, working=True) == HANG / PERIOD
    dog = watchdog()
    for _ in range(100):
        assert rounds(dog, 4, working=True) == 4
        dog.stepped()


def test_the_time_before_the_work_does_not_count() -> None:
    dog = watchdog()
    rounds(dog, 100)
    assert rounds(dog, 1000, working=True) == HANG / PERIOD


def test_a_turn_that_does_not_end_is_a_hang_although_its_clients_have_left() -> None:
    assert rounds(watchdog(), 1000, answer=HANG) == 1000
    assert rounds(watchdog(), 1000, answer=HANG + 1) == 2


def test_one_long_turn_that_has_ended_is_no_hang() -> None:
    """Its messages found no reader while the parent was stopped."""
    dog = watchdog()
    assert rounds(dog, 1, answer=HANG + 1) == 1
    assert rounds(dog, 1000, answer=0.0) == 1000
