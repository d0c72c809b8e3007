from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.service.engine.test_client import generate
from unified_latents.service.engine.fake import fake_card
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Accepted,
    Error,
    Event,
    Generate,
    ModelCard,
    Progress,
    Ready,
    Result,
    Snapshot,
)
from unified_latents.service.engine.tickets import Tickets


def codes(events: list[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Error)]


def test_a_request_sent_again_has_only_the_time_that_is_left() -> None:
    now = [0.0]
    tickets = Tickets(8, clock=lambda: now[0])
    tickets.open(generate(timeout=10.0))
    tickets.open(generate())
    assert [request.timeout for request in tickets.send()] == [10.0, None]
    assert tickets.send() == []
    now[0] = 4.0
    assert tickets.bury() == ([], 0)
    assert [request.timeout for request in tickets.send()] == [6.0, None]


def test_a_request_is_sent_again_from_its_last_snapshot() -> None:
    tickets = Tickets(8)
    number = tickets.open(generate(snapshot_every=1)).request.id
    tickets.send()
    found = Snapshot(number, 4, (), "request", "model", "numerics")
    assert not tickets.deliver(found)
    tickets.bury()
    (again,) = tickets.send()
    assert isinstance(again, Generate)
    assert again.resume == found


def test_a_deadline_holds_while_the_engine_is_dumb() -> None:
    async def run() -> list[Event]:
        ticket = Tickets(8).open(generate(timeout=0.01))
        return [event async for event in ticket.follow(Tickets(8).clock)]

    assert codes(asyncio.run(run())) == ["deadline_exceeded"]


def test_events_end_with_the_result_and_leave_nothing() -> None:
    async def run() -> None:
        tickets = Tickets(8)
        ticket = tickets.open(generate())
        number = ticket.request.id
        assert [request.id for request in tickets.send()] == [number]
        assert not tickets.deliver(Progress(number, 1, 2))
        assert tickets.deliver(Result(number))
        assert not tickets.deliver(Result(number))
        events = [event async for event in ticket.follow(tickets.clock)]
        assert [type(event) for event in events] == [Progress, Result]
        assert len(tickets) == 0
        assert not tickets.forget(number)

    asyncio.run(run())


OLD = fake_card("m")
SAME_SPACE = msgspec.structs.replace(OLD, digest="2" * 64)
OTHER_SPACE = msgspec.structs.replace(SAME_SPACE, latent_space="3" * 32)


@pytest.mark.parametrize(
    ("begun", "now", "goes_on"),
    [
        (False, OLD, True),
        (True, OLD, True),
        (False, SAME_SPACE, True),
        (True, SAME_SPACE, False),
        (False, OTHER_SPACE, False),
        (True, OTHER_SPACE, False),
    ],
)
def test_a_request_ends_on_the_checkpoint_that_it_began_on(
    begun: bool, now: ModelCard, goes_on: bool
) -> None:
    """It may wait while its model is replaced, if that is a model of the same latents."""
    tickets = Tickets(8)
    ticket = tickets.open(generate(), _ready(OLD))
    number = ticket.request.id
    tickets.send()
    first, again = (Accepted(number, 1, model=card.digest) for card in (OLD, now))
    if begun:
        tickets.deliver(first, _ready(OLD))
        tickets.bury()
        tickets.send()
    tickets.deliver(again, _ready(now))

    async def told() -> list[Event]:
        if goes_on:
            tickets.deliver(Result(number))
        return [event async for event in ticket.follow(tickets.clock)]

    *before, last = asyncio.run(told())
    assert before == [first] * begun + [again] * goes_on
    assert [last] == [Result(number)] if goes_on else codes([last]) == ["model_replaced"]
    assert tickets.forget(number) is not goes_on  # what the engine still has, it is told to forget


def _ready(card: ModelCard) -> Ready:
    return Ready(PROTOCOL, (card,), "reference", "strict", "fast", "none", "cpu")
