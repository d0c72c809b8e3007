"""Hundreds of clients that leave, and jobs that are cancelled, over real connections to a service
on a real engine: afterwards it is as if they had never come.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from uvicorn.server import ServerState

from tests.service.engine.test_client import until
from tests.service.http.stream.test_stall import _protocol
from unified_latents.service.engine.client import EngineClient
from unified_latents.service.engine.messages import Checkpoint, Ready
from unified_latents.service.engine.seam import Death
from unified_latents.service.engine.spawn import EngineOptions
from unified_latents.service.engine.telemetry import Tick
from unified_latents.service.engine.tickets import Ticket
from unified_latents.service.http.access.admission import Entry
from unified_latents.service.http.app import create_app
from unified_latents.service.http.calls import answer_of
from unified_latents.service.http.core import Service
from unified_latents.service.http.stream.mailbox import Mailbox
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

ROUNDS, LEAVERS, CANCELLED = 5, 90, 15
TOGETHER = 12
GROWTH = 8 * 2**20
"""Bytes by which a process may have grown since the end of the first round."""
STALL = 0.3
PROBE = {"label": 1, "seed": 99, "n": 1, "steps": {"base": 3, "decode": 2}}
DEAF = {"label": 0, "n": 24, "steps": {"base": 8, "decode": 12}, "stream": True, "previews": 16}
RUNNING = {"phase": "running"}
LIVING = (Ticket, Entry, Mailbox)


@dataclass
class Place:
    """A service in this process, its engine in another, and all that they hold."""

    home: Path
    tiny: Path
    ticks: list[Tick] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Whatever stays behind would soon fill these, and refuse the next.
        limits = {"queue_row_steps": 40_000, "max_pending": 64, "job_slots": 4, "home": self.home}
        settings = Settings.model_validate({**limits, "max_samples": 24})
        options = EngineOptions((Checkpoint("tiny", str(self.tiny)),), max_pending=64)
        self.metrics, self.engine = Metrics(), EngineClient(options, self)
        self.jobs = Jobs(settings, self.engine, self.metrics, answer_of)
        self.app = create_app(settings, self.engine, self.metrics, jobs=self.jobs)
        self.connections = ServerState()

    @property
    def service(self) -> Service:
        """What the routes work with."""
        found: Service = self.app.state.service
        return found

    def on_tick(self, tick: Tick) -> None:
        self.ticks.append(tick)
        self.metrics.on_tick(tick)

    def on_ready(self, ready: Ready) -> None:
        self.metrics.on_ready(ready)

    def on_death(self, death: Death) -> None:
        raise AssertionError(death)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[str, int]]:
        """Its address, while it is ready."""
        config = uvicorn.Config(self.app, http="h11", lifespan="off", log_config=None)
        config.load()
        connection = partial(_protocol(config, stall=STALL), server_state=self.connections)
        async with self.app.router.lifespan_context(self.app):
            await until(lambda: self.engine.status.state == "ready")
            loop = asyncio.get_running_loop()
            server = await loop.create_server(connection, "127.0.0.1")
            # A small buffer is full soon, so that a client that does not read is noticed.
            server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            yield server.sockets[0].getsockname()
            server.close()

    @property
    def empty(self) -> bool:
        """Whether nobody is connected and nothing is in flight."""
        held = (len(self.connections.connections), len(self.connections.tasks), self.jobs.busy)
        return not any(held) and not self.engine.status.in_flight

    def sizes(self) -> tuple[int, int]:
        """Resident bytes of this process and of the engine."""
        gc.collect()
        pid = self.engine.status.pid
        assert pid is not None
        return psutil.Process().memory_info().rss, psutil.Process(pid).memory_info().rss

    def left_behind(self) -> list[object]:
        """What a request consists of while it is in flight."""
        gc.collect()
        return [each for each in gc.get_objects() if type(each) in LIVING]


def post(path: str, body: dict[str, Any], *, whole: bool = True) -> bytes:
    """A request as bytes; not whole: its last byte is missing."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sent = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    return sent if whole else sent[:-1]


def drawn(chance: random.Random) -> dict[str, Any]:
    """Any request that takes its time."""
    return {
        "label": chance.randrange(3),
        "seed": chance.getrandbits(40),
        "n": chance.randint(1, 4),
        "steps": {"base": chance.randint(1, 60), "decode": chance.randint(1, 60)},
        "guidance": chance.choice([1.0, 1.5]),
        "priority": chance.choice(["high", "normal", "low"]),
        **chance.choice([{}, {}, {"timeout": 60.0}, {"timeout": 0.01}]),
    }


async def leave(address: tuple[str, int], chance: random.Random) -> None:
    """Ask, read nothing or some of it, and go in one of several ways."""
    streams = chance.random() < 0.5
    body = drawn(chance) | ({"stream": True, "previews": chance.randint(0, 3)} if streams else {})
    reader, writer = await asyncio.open_connection(*address)
    writer.write(post("/generate", body, whole=chance.random() < 0.9))
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(chance.choice([0.0, 0.01, 0.05])):
            for _ in range(chance.randint(1, 6) if streams else 1):
                await reader.readuntil(b"\n\n")
    with suppress(ConnectionError):
        if chance.random() < 0.3:
            writer.write_eof()
            await asyncio.sleep(chance.choice([0.0, 0.02]))
        if chance.random() < 0.3:  # a reset, not an end
            abrupt = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abrupt)
        writer.close()
        await writer.wait_closed()


async def stay_deaf(place: Place, address: tuple[str, int]) -> None:
    """Ask for much and read nothing, until the service has had enough."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(address)
    deaf.sendall(post("/generate", DEAF))
    await until(lambda: not place.empty)
    await until(lambda: place.empty)
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := deaf.recv(2**16):
            received += piece
    deaf.close()
    assert b"event: preview" in received
    assert b"event: result" not in received


async def cancel(client: httpx.AsyncClient, chance: random.Random) -> None:
    """A job, and somewhere on its way the wish that it were none."""
    headers = {"Prefer": "respond-async"}
    asked = await client.post("/generate", json=drawn(chance), headers=headers)
    assert asked.status_code == 202, asked.text
    where = asked.headers["location"]
    await asyncio.sleep(chance.choice([0.0, 0.05, 0.2]))
    assert (await client.delete(where)).status_code in (200, 202, 409)
    while (await client.get(where)).json()["state"] in ("queued", "running"):
        await asyncio.sleep(0.02)


async def come_and_go(place: Place, address: tuple[str, int], chance: random.Random) -> None:
    """A round of everybody."""
    room = asyncio.Semaphore(TOGETHER)

    async def one(doing: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await doing()

    host, port = address
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=120) as client:
        crowd = [partial(leave, address, chance)] * LEAVERS
        crowd += [partial(cancel, client, chance)] * CANCELLED
        chance.shuffle(crowd)
        await asyncio.gather(*map(one, crowd))
    await until(lambda: place.empty)
    await stay_deaf(place, address)


async def probe(place: Place, address: tuple[str, int]) -> str:
    """The digest of an answer; every pass but the one under way is its own alone."""
    place.ticks.clear()
    host, port = address
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=120) as client:
        answer = await client.post("/generate", json=PROBE)
    assert answer.status_code == 200, answer.text
    assert len(place.ticks) >= 5
    assert {tick.samples for tick in place.ticks[-5:]} == {1}
    last = place.ticks[-1]
    assert not any(last.inflight.values())
    assert not any(n for depths in last.queued.values() for n in depths.values())
    await until(lambda: place.empty)
    return hashlib.sha256(answer.content).hexdigest()


def test_five_hundred_who_leave_and_cancel_leave_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    """No row, slot, ticket, row-step or byte; and whoever comes after them gets the same bytes."""

    async def run() -> None:
        place, chance = Place(tmp_path, tiny), random.Random(500)
        async with place.open() as address:
            digests, sizes, held = [await probe(place, address)], [], []
            for _ in range(ROUNDS):
                await come_and_go(place, address, chance)
                digests.append(await probe(place, address))
                assert place.left_behind() == []
                assert place.service.admission.queued == 0
                assert place.service._codecs.borrowed_tokens == 0
                sizes.append(place.sizes())
                held.append(psutil.Process().num_fds())
            assert len(set(digests)) == 1
            assert [a - b < GROWTH for a, b in zip(sizes[-1], sizes[0], strict=True)] == [True] * 2
            assert held[-1] - held[0] < LEAVERS // 10
            noticed = place.metrics.registry.get_sample_value("ul_cancelled_total", RUNNING)
            assert noticed is not None
            assert noticed > LEAVERS

    asyncio.run(run())
