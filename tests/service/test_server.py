"""The real thing: `ul-serve up` in a process, its engine in another, HTTP between us and them."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

REQUEST = {"model": "tiny", "label": "square", "seed": 11, "n": 2}
LONG = {**REQUEST, "steps": {"base": 1000, "decode": 1000}}
LATENT = "application/vnd.ul.latent+safetensors"


@pytest.fixture(autouse=True)
def _still_ready(live: Any) -> Iterator[None]:
    """Whatever a test did, the service answers afterwards."""
    yield
    _until(lambda: live.http.get("/readyz").status_code == 200)


def test_it_generates_and_repeats_itself(live: Any) -> None:
    first, second = (live.http.post("/generate", json=REQUEST).json() for _ in range(2))
    assert first == second
    image = live.http.post(
        "/generate", json={**REQUEST, "n": 1}, headers={"accept": "image/png"}
    ).content
    assert image == base64.b64decode(first["data"][0]["b64"])


def test_the_mean_and_the_noised_latent_decode_to_the_same_bytes(live: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.linear_gradient("L").resize((40, 20)).save(file)
    images = []
    for mode in ("mean", "noised"):
        encoded = live.http.post(
            f"/encode?model=tiny&mode={mode}&seed=5&bitrate=true&levels=4",
            content=file.read_bytes(),
            headers={"content-type": "image/png"},
        ).json()
        assert encoded["bitrate"]["bits_per_pixel"] == encoded["bitrate"]["bits"] / 256
        decoded = live.http.post(
            "/decode?model=tiny&seed=5",
            content=base64.b64decode(encoded["latent"]),
            headers={"content-type": LATENT},
        )
        images.append(decoded.content)
    assert images[0] == images[1]
    other = live.http.post(
        "/decode?model=plain",
        content=base64.b64decode(encoded["latent"]),
        headers={"content-type": LATENT},
    )
    assert other.status_code == 409


def test_leaving_the_connection_stops_the_work(live: Any) -> None:
    before = _metric(live, 'ul_cancelled_total{phase="running"}')
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{live.url}/generate", json={**LONG, "n": 16}, timeout=1)
    _until(lambda: _metric(live, 'ul_cancelled_total{phase="running"}') == before + 1)
    live.http.post("/generate", json=REQUEST)
    _until(lambda: _metric(live, 'ul_inflight_rows{stage="base"}') == 0)


def test_a_half_sent_body_disturbs_nobody(live: Any) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )


def test_a_chunked_flood_is_refused(live: Any) -> None:
    def flood() -> Iterator[bytes]:
        for _ in range(40):
            yield b"\x00" * 2**20

    try:
        response = live.http.post(
            "/encode?model=tiny", content=flood(), headers={"content-type": "image/png"}
        )
    except httpx.TransportError:
        return  # the answer was sent and the connection closed while we were still sending
    assert response.status_code == 413


def test_the_api_process_is_small_and_has_no_torch(live: Any) -> None:
    process = psutil.Process(live.process.pid)
    assert not [m.path for m in process.memory_maps() if "libtorch" in m.path]
    assert process.memory_info().rss < 250 * 2**20


def test_importing_the_application_imports_no_torch() -> None:
    code = "import sys, unified_latents.service.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_sigterm_ends_both_processes_with_status_0(
    start_server: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    server = start_server("--model", f"tiny={tiny}", UL_HOME=str(tmp_path / "home"))
    engine = _engine(server)
    assert server.stop() == 0
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_sigterm_lets_what_is_in_flight_finish_and_refuses_the_rest(
    start_server: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    server, pending = _loaded(start_server, tiny, tmp_path, steps=500)
    server.process.send_signal(signal.SIGTERM)
    _until(lambda: server.http.get("/readyz").status_code == 503)
    assert server.http.get("/readyz").json()["code"] == "shutting_down"
    refused = server.http.post("/generate", json=REQUEST)
    assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
    assert pending.result().status_code == 200
    assert server.process.wait(60) == 0


def test_a_second_sigterm_ends_the_wait(
    start_server: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    server, pending = _loaded(start_server, tiny, tmp_path, steps=1000)
    server.process.send_signal(signal.SIGTERM)
    _until(lambda: server.http.get("/readyz").status_code == 503)
    server.process.send_signal(signal.SIGTERM)
    answer = pending.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert server.process.wait(60) == 0


def test_the_end_of_grace_ends_the_wait(
    start_server: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    server, pending = _loaded(start_server, tiny, tmp_path, grace=0)
    server.process.send_signal(signal.SIGTERM)
    answer = pending.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert server.process.wait(60) == 0


def test_an_idle_engine_that_is_stopped_is_not_ready(live: Any) -> None:
    engine = _engine(live)
    engine.suspend()
    _until(lambda: live.http.get("/readyz").status_code == 503)
    assert live.http.get("/healthz").json()["engine"] == "unresponsive"
    engine.resume()
    _until(lambda: live.http.get("/readyz").status_code == 200)
    assert _engine(live).pid == engine.pid


def test_the_engine_does_not_outlive_a_killed_parent(
    start_server: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    server = start_server("--model", f"tiny={tiny}", UL_HOME=str(tmp_path / "home"))
    engine = _engine(server)
    server.process.kill()
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    server.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "UL_ALLOW_ANONYMOUS"),
        (["--model", "nonsense"], "NAME=CHECKPOINT_DIR"),
        (["--port", "70000"], "port"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "unified_latents.service", "up", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert said in done.stderr


def _loaded(
    start_server: Callable[..., Any],
    tiny: Path,
    tmp_path: Path,
    steps: int = 1000,
    grace: int = 600,
) -> tuple[Any, Future[httpx.Response]]:
    """A server of its own with a long request in flight."""
    environment = {"UL_HOME": str(tmp_path / "home"), "UL_GRACE": str(grace)}
    server = start_server("--model", f"tiny={tiny}", **environment)
    server.wait_for(r"(ready): torch")
    pool = ThreadPoolExecutor(1)
    body = {**REQUEST, "n": 1, "steps": {"base": steps, "decode": 4}}
    pending = pool.submit(httpx.post, f"{server.url}/generate", json=body, timeout=None)
    pool.shutdown(wait=False)
    _until(lambda: _metric(server, 'ul_inflight_rows{stage="base"}') > 0)
    return server, pending


def _engine(server: Any) -> psutil.Process:
    engine: psutil.Process = server.engine()
    return engine


def _metric(server: Any, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.http.get("/metrics").text, re.M)
    return float(found.group(1)) if found else 0.0


def _until(condition: Callable[[], bool], within: float = 120) -> None:
    """Polls what only the outside of another process can show."""
    deadline, pause = time.monotonic() + within, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.02)
