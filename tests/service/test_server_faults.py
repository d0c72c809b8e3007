"""A real service whose engine is killed, ended or stopped, idle or loaded; whose checkpoint is
damaged; whose disk is full. What was admitted is answered, and health tells the truth meanwhile.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_FSIZE
from typing import Any

import httpx
import psutil
import pytest

from tests.service.conftest import LiveServer
from tests.service.test_server import _metric, _until

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP]
CLIENTS = 4
ROOM = 64 * 1024
"""Bytes that a small disk has."""


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One whose engine counts as hung soon."""
    home = tmp_path_factory.mktemp("home")
    settings = {"UL_HOME": str(home), "UL_HANG": "2", "UL_JOBS": "0"}
    made = LiveServer("--model", f"tiny={tiny}", **settings)
    made.wait_for(r"(ready): torch")
    yield made
    made.stop()


def generate(server: Any, seed: int, steps: int = 200) -> httpx.Response:
    """One picture, over a connection of its own."""
    body = {"label": 1, "seed": seed, "n": 1, "steps": {"base": steps, "decode": 2}}
    return httpx.post(f"{server.url}/generate", json=body, timeout=120)


@pytest.fixture(scope="module")
def undisturbed(server: LiveServer) -> list[bytes]:
    """What each client is answered when nothing happens."""
    return [generate(server, seed).content for seed in range(CLIENTS)]


@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "loaded"])
@pytest.mark.parametrize("fault", SIGNALS, ids=lambda fault: fault.name)
def test_an_engine_that_is_signalled_is_replaced_and_nobody_is_lost(
    server: LiveServer, undisturbed: list[bytes], fault: signal.Signals, loaded: bool
) -> None:
    """Those in flight, or else those who come while there is no engine, get the same bytes."""
    engine = server.engine()
    with ThreadPoolExecutor(CLIENTS) as pool:
        pending = [pool.submit(generate, server, seed) for seed in range(CLIENTS) if loaded]
        if loaded:
            _until(lambda: _metric(server, 'ul_inflight_rows{stage="base"}') == CLIENTS)
        engine.send_signal(fault)
        _until(lambda: server.http.get("/readyz").status_code == 503)
        health = server.http.get("/healthz")
        assert health.status_code == 200
        assert health.json()["engine"] in ("restarting", "unresponsive")
        if not loaded:
            pending = [pool.submit(generate, server, seed) for seed in range(CLIENTS)]
        _until(lambda: server.http.get("/readyz").status_code == 200)
        assert server.engine().pid != engine.pid
        answers = [each.result() for each in pending]
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    assert [answer.content for answer in answers] == undisturbed


def test_one_flipped_byte_of_a_checkpoint_is_not_ready_and_says_which_file(
    start_server: Callable[..., LiveServer], tiny: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(tiny, tmp_path / "damaged")
    weights = max(damaged.iterdir(), key=lambda path: path.stat().st_size)
    held = bytearray(weights.read_bytes())
    held[len(held) // 2] ^= 1
    weights.write_bytes(held)
    server = start_server("--model", f"tiny={damaged}", UL_HOME=str(tmp_path / "home"), UL_JOBS="0")
    assert server.http.get("/readyz").status_code == 503
    _until(lambda: server.http.get("/healthz").status_code == 503)
    for answer in (server.http.get("/readyz"), server.http.get("/healthz"), generate(server, 1)):
        assert answer.status_code == 503
        assert weights.name in answer.json()["detail"]
        assert answer.headers["x-should-retry"] == "false"


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """`folder`, and whether it could be made a file system of ROOM bytes: root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_cache_and_no_answer(
    start_server: Callable[..., LiveServer], tiny: Path, tmp_path: Path
) -> None:
    """Where a file system cannot be mounted, no file of the process may have any length."""
    home, folder = str(tmp_path / "home"), tmp_path / "cache"
    with small_disk(folder) as mounted:
        server = start_server("--model", f"tiny={tiny}", UL_HOME=home, UL_CACHE=str(folder))
        server.wait_for(r"(ready): torch")
        if not mounted:
            psutil.Process(server.process.pid).rlimit(RLIMIT_FSIZE, (0, 0))
        first = [generate(server, seed, 1) for seed in range(20)]
        assert {answer.status_code for answer in first} == {200}
        assert _metric(server, 'ul_result_cache_total{outcome="off"}') == 1
        assert (_metric(server, 'ul_result_cache_total{outcome="stored"}') > 0) == mounted
        assert server.http.get("/readyz").status_code == 200
        again = [generate(server, seed, 1) for seed in range(20)]
        assert [answer.content for answer in again] == [answer.content for answer in first]
        assert _metric(server, 'ul_result_cache_total{outcome="hit"}') == 0
        assert server.stop() == 0
