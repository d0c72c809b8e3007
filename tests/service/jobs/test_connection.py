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
