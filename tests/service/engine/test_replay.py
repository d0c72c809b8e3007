"""The policy of replays: who is sent when, who is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unified_latents.service.engine.replay import MAX_DEATHS, Replay


def replay(*numbers: int) -> Replay:
    policy = Replay()
    for number in numbers:
        policy.add(number)
    return policy


def test_all_are_sent_together_and_once() -> None:
    policy = replay(1, 2, 3)
    assert policy.send() == [1, 2, 3]
    assert policy.send() == []
    policy.add(4)
    assert policy.send() == [4]


def test_after_one_death_all_are_sent_again() -> None:
    policy = replay(1, 2)
    policy.send()
    assert policy.bury().lost == []
    policy.add(3)
    assert policy.send() == [1, 2, 3]


def test_after_two_deaths_suspects_go_alone_and_first() -> None:
    policy = replay(1, 2)
    for _ in range(2):
        policy.send()
        policy.bury()
    policy.add(3)
    assert policy.send() == [1]
    assert policy.send() == []
    policy.remove(1)
    assert policy.send() == [2]
    assert policy.bury().lost == [2]
    assert policy.send() == [3]


def test_suspects_are_counted_once() -> None:
    policy = replay(1, 2)
    counted = []
    for _ in range(MAX_DEATHS):
        policy.send()
        counted.append(policy.bury().suspects)
    assert counted == [0, 2, 0]


def test_what_the_engine_never_had_is_not_blamed() -> None:
    policy = replay(1)
    policy.send()
    policy.add(2)
    for _ in range(MAX_DEATHS - 1):
        assert policy.bury().lost == []
        policy.send()
    assert policy.bury().lost == [1]
    assert policy.send() == [2]


def test_removing_says_whether_the_engine_must_hear_of_it() -> None:
    policy = replay(1, 2)
    assert not policy.remove(1)
    policy.send()
    assert policy.remove(2)
    assert not policy.remove(2)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_only_the_poisonous_are_lost_and_all_others_are_answered(
    case: tuple[int, set[int]],
) -> None:
    """An engine dies whenever it has a poisonous request, and otherwise answers the oldest."""
    count, poison = case
    policy, has, answered, lost = replay(*range(count)), set[int](), set[int](), set[int]()
    for _ in range(10 * count):
        has |= set(policy.send())
        if has & poison:
            lost |= set(policy.bury().lost)
            has = set()
        elif has:
            oldest = min(has)
            has.remove(oldest)
            policy.remove(oldest)
            answered.add(oldest)
    assert lost == poison
    assert answered == set(range(count)) - poison
