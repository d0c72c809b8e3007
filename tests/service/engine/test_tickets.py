from __future__ import annotations

import asyncio

from tests.service.engine.test_client import generate
from unified_latents.service.engine.messages import (
    Error,
    Event,
    Generate,
    Progress,
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
