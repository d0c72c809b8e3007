from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


def test_it_stops_in_the_middle_of_whatever_it_asks_the_store(
    run: Callable[..., None], desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that has just succeeded may swallow a cancellation: one time in two, here."""
    monkeypatch.setattr("unified_latents.service.jobs.runtime._PULSE", 0.0005)
    monkeypatch.setattr("unified_latents.service.jobs.connection._AGAIN", 0.05)

    async def body() -> None:
        for turn in range(12):
            async with asyncio.timeout(20):
                async with desk(job_slots=0).open():
                    await asyncio.sleep(0.002 + turn * 0.0003)

    run(body)
