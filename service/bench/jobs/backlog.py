"""A long queue: what it takes to add to it, to hold it, to look through it, and who goes first."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from unified_latents.service.bench.jobs.desk import desk
from unified_latents.service.bench.live import Server, buckets, server
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import Generate
from unified_latents.service.jobs.job import DEFAULT_PRIORITY

CROWD = 8
"""Clients that fill the queue at once."""
PAGE = 200
URGENT = (3, 2, 1)
"""Priorities of the last jobs that come: a worker must take them first, the last one before all."""
_FIRST = 5
"""Of the jobs that came first, so many are taken after them."""
_ROUTE = "/jobs"
_ENDS = 10
"""The first and the last of so many parts of the jobs come from one client, in order."""
_LOOK = 0.02


@dataclass
class Backlog:
    """What a queue came to. A histogram is the server's own: upper edge in seconds → answers up to
    it.
    """

    submitted: list[str] = field(default_factory=list)
    """Every job; the first and the last ones in the order in which they were queued."""
    crowd: dict[float, float] = field(default_factory=dict)
    """POST /jobs while `CROWD` clients fill the queue."""
    rate: float = 0.0
    """Jobs a second that they got into it."""
    alone: dict[float, float] = field(default_factory=dict)
    """POST /jobs of one client into the queue when it is nearly full."""
    memory: float = 0.0
    """Bytes of the store for a job, clients' buffers and what is on its way to disk left out."""
    pages: dict[float, float] = field(default_factory=dict)
    """GET /jobs, `PAGE` at a time."""
    listed: list[str] = field(default_factory=list)
    """The jobs as the pages gave them."""
    order: list[int] = field(default_factory=list)
    """Seeds of the jobs that must be taken first."""
    taken: list[int] = field(default_factory=list)
    """Seeds of the jobs that a worker took first."""

    @property
    def repeated(self) -> int:
        """Jobs that the pages gave more than once."""
        return len(self.listed) - len(set(self.listed))

    @property
    def missing(self) -> int:
        """Jobs that no page gave."""
        return len(set(self.submitted) - set(self.listed))


class Link:
    """One client on one connection."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def submit(self, seed: int, priority: int = DEFAULT_PRIORITY) -> str:
        """Queue a job of one picture; its id."""
        request = {"label": 0, "seed": seed}
        job = {"kind": "generate", "request": request, "priority": priority}
        made: str = self._call("POST", _ROUTE, json.dumps(job).encode())["id"]
        return made

    def pages(self) -> list[str]:
        """Every job's id, page after page."""
        found: list[str] = []
        path = f"{_ROUTE}?limit={PAGE}"
        while True:
            page = self._call("GET", path)
            found += [job["id"] for job in page["jobs"]]
            if page["next"] is None:
                return found
            path = f"{_ROUTE}?limit={PAGE}&after={page['next']}"

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if body else {}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 202):
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text)


async def measure(url: str, home: Path, name: str, folder: str, threads: int, jobs: int) -> Backlog:
    """Fill the queue through a service without a worker, then let a worker begin with it."""
    found = Backlog()
    settings = {"REDIS_URL": url, "UL_HOME": str(home), "UL_JOB_SLOTS": "0"}
    limit = str(jobs + len(URGENT))
    with server(name, folder, threads, **settings, UL_MAX_JOBS=limit) as live:
        await asyncio.to_thread(_fill, found, live, url, jobs)
        await asyncio.to_thread(_look_through, found, live)
    found.taken = await _first_taken(url, home, name, len(found.order))
    return found


def _fill(found: Backlog, live: Server, url: str, jobs: int) -> None:
    """The first tenth warms up; memory is counted from there."""
    few = jobs // _ENDS
    late = range(jobs, jobs + len(URGENT))
    with Redis.from_url(url) as redis:
        found.submitted += _alone(live, range(few))
        before = _held(redis)
        began = time.perf_counter()
        with _counted(live, found.crowd):
            found.submitted += _together(live, range(few, jobs - few))
        found.rate = (jobs - 2 * few) / (time.perf_counter() - began)
        with _counted(live, found.alone):
            found.submitted += _alone(live, range(jobs - few, jobs))
        found.memory = (_held(redis) - before) / (jobs - few)
        for seed, priority in zip(late, URGENT, strict=True):
            found.submitted += _alone(live, [seed], priority)
    found.order = [*reversed(late), *range(_FIRST)]


def _held(redis: Redis) -> int:
    """Bytes that stay when nobody is connected and all is written."""
    info: Any = redis.info("memory")
    held: int = info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"]
    return held


def _alone(live: Server, seeds: Sequence[int], priority: int = DEFAULT_PRIORITY) -> list[str]:
    """Jobs from one client, on a connection that was not idle before."""
    with closing(Link(live.url)) as one:
        return [one.submit(seed, priority) for seed in seeds]


def _together(live: Server, seeds: Sequence[int]) -> list[str]:
    """Jobs from many clients, each with a connection of its own."""
    with ExitStack() as stack, ThreadPoolExecutor(CROWD) as pool:
        links = [stack.enter_context(closing(Link(live.url))) for _ in range(CROWD)]
        parts = pool.map(
            lambda i: [links[i].submit(seed) for seed in seeds[i::CROWD]], range(CROWD)
        )
        return [identity for part in parts for identity in part]


def _look_through(found: Backlog, live: Server) -> None:
    with closing(Link(live.url)) as link, _counted(live, found.pages):
        found.listed = link.pages()


@contextmanager
def _counted(live: Server, counts: dict[float, float]) -> Iterator[None]:
    """The answers of the route that are given inside."""
    before = buckets(live.get("/metrics"), _ROUTE)
    yield
    after = buckets(live.get("/metrics"), _ROUTE)
    counts |= {edge: count - before.get(edge, 0) for edge, count in after.items()}


async def _first_taken(url: str, home: Path, name: str, count: int) -> list[int]:
    """Seeds of the first jobs that a worker of one slot takes."""
    engine = FakeEngine(fake_card(name))
    async with desk(url, home, engine, 1):
        while len(engine.requests) < count:
            await asyncio.sleep(_LOOK)
    first = engine.requests[:count]
    return [request.seed for request in first if isinstance(request, Generate)]
