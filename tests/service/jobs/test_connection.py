from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

from unified_latents.service.jobs.connection import (
    PATIENCE,
    StoreDownError,
    answering,
    ended,
    impatient,
)


def test_a_store_that_is_not_there_fails_at_once(run: Callable[..., None]) -> None:
    async def body() -> None:
        client = impatient("unix:///nowhere/s")
        with pytest.raises(StoreDownError):
            async with answering():
                await client.ping()

    run(body)


def test_a_store_that_is_silent_fails_in_time(run: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        async def body() -> None:
            client = impatient(f"redis://127.0.0.1:{port}/0")
            began = time.monotonic()
            with pytest.raises(StoreDownError):
                async with answering():
                    await client.ping()
            assert PATIENCE - 0.1 < time.monotonic() - began < 10 * PATIENCE
            await client.aclose()

        run(body)


def test_other_errors_are_not_outages(run: Callable[..., None]) -> None:
    async def body() -> None:
        with pytest.raises(ZeroDivisionError):
            async with answering():
                await asyncio.sleep(1 / 0)

    run(body)


def test_who_swallows_a_cancellation_is_cancelled_again(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unified_latents.service.jobs.connection._AGAIN", 0.01)
    told: list[int] = []

    async def deaf() -> None:
        while len(told) < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told.append(1)

    async def broken() -> None:
        raise StoreDownError("before anybody asked")

    async def body() -> None:
        tasks = [asyncio.create_task(deaf()), asyncio.create_task(broken())]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await ended(tasks)
        assert (len(told), [task.done() for task in tasks]) == (3, [True, True])

    run(body)
