"""An engine in memory: the seam without torch, for tests and for clients under development.

Its pictures are noise, but they keep the promises: a sample's bytes depend on seed and sample
index alone. `hold()` makes requests wait, so that a test can act while they are in flight.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import msgspec

from unified_latents.service.engine.lengths import is_clip, stride
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Accepted,
    Array,
    Bitrate,
    Canary,
    DataSource,
    Decode,
    Defaults,
    Encode,
    Error,
    Event,
    Generate,
    ModelCard,
    Preprocessing,
    Preview,
    Progress,
    Ready,
    Request,
    Result,
    Snapshot,
    Trajectory,
)
from unified_latents.service.engine.seam import EngineError, NotReadyError, State, Status
from unified_latents.service.engine.snapshots import fingerprint, fits, seal
from unified_latents.service.engine.telemetry import Costs, StageName
from unified_latents.service.engine.tickets import overdue

_NUMERICS = "fake-strict"


def fake_card(name: str = "fake", kind: str = "generator") -> ModelCard:
    """A model of 8×8 gray pictures in 2×2 latents of four channels."""
    return ModelCard(
        name=name,
        kind="generator" if kind == "generator" else "autoencoder",
        digest=hashlib.sha256(name.encode()).hexdigest(),
        labels=("circle", "Square"),
        channels=1,
        size=(8, 8),
        preprocessing=Preprocessing("L", "pad", 0),
        latent_shape=(4, 2, 2),
        latent_space=hashlib.sha256(b"space" + name.encode()).hexdigest()[:32],
        lambda_0=5.0,
        lambda_1=-10.0,
        defaults=Defaults(Trajectory(4, "dpmpp-2m"), Trajectory(4, "ancestral"), 1.5, None),
        data=DataSource("fake", "none", "CC0-1.0"),
        licence="Apache-2.0",
        canary=Canary(ok=True, latent_error=0.0, image_error=0.0),
    )


class FakeEngine:
    """`Engine` without a process."""

    def __init__(self, *cards: ModelCard, max_pending: int = 256) -> None:
        self.ready: Ready | None = None
        self._models = {card.name: card for card in cards or (fake_card(),)}
        self._max_pending = max_pending
        self._state: State = "stopped"
        self._ids = itertools.count(1)
        self._open = asyncio.Event()
        self._open.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.in_flight: set[int] = set()
        self.cancelled: list[int] = []
        self.forecast: float | None = None
        """Seconds that every request is said to take; None: nothing is measured here."""
        self.damage: str | None = None
        """What is wrong with every checkpoint that is to be loaded."""
        self.requests: list[Request] = []
        """All that was submitted."""

    @property
    def costs(self) -> Costs:
        """None."""
        return Costs(())

    def eta(self, request: Request) -> float | None:
        """What a test has set."""
        return self.forecast

    @property
    def status(self) -> Status:
        """Ready from `start` to `stop`."""
        return Status(self._state, in_flight=len(self.in_flight))

    async def start(self) -> None:
        """Ready at once."""
        self._loop = asyncio.get_running_loop()
        self._state = "ready"
        self._describe()

    async def stop(self) -> None:
        """Whatever waits fails."""
        self._state = "stopped"
        self._open.set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Requests stay in flight inside, and end after; from any thread."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._open.set)  # the loop may be asleep

    async def reload(self, name: str, path: str, *, other_space: bool = False) -> ModelCard:
        """The model of that name with another digest: that of the path."""
        if self.damage is not None:
            raise EngineError("load_failed", self.damage)
        digest = hashlib.sha256(path.encode()).hexdigest()
        old = self._models.get(name) or fake_card(name)
        self._models[name] = card = msgspec.structs.replace(old, digest=digest)
        self._describe()
        return card

    async def unload(self, name: str) -> None:
        """Gone."""
        if self._models.pop(name, None) is None:
            raise EngineError("load_failed", "no such model here")
        self._describe()

    def _describe(self) -> None:
        ids = ("reference", _NUMERICS, "fake-fast", "none", "none")
        self.ready = Ready(PROTOCOL, tuple(self._models.values()), *ids)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """Accepted, a snapshot and the previews if asked for, one Progress, and the end."""
        if self._state != "ready":
            raise NotReadyError("not_ready", f"the engine is {self._state}")
        if len(self.in_flight) >= self._max_pending:
            raise NotReadyError("busy", "too many requests are in flight")
        number = next(self._ids)
        self.in_flight.add(number)
        self.requests.append(request)
        ended = False
        try:
            card = self._models.get(request.model)
            digest = card.digest if card else ""
            yield Accepted(number, 1, eta=0.0, done=self._resumed(request), model=digest)
            for snapshot in self._snapshots(number, request):
                yield snapshot
            if not await self._opened(request.timeout):
                ended = True
                yield overdue(number)
                return
            for preview in self._previews(number, request):
                yield preview
            yield Progress(number, 1, 1, _last_stage(request), eta=0.0)
            last = self._end(number, request)
            ended = True
            yield last
        finally:
            self.in_flight.discard(number)
            if not ended:
                self.cancelled.append(number)

    async def _opened(self, timeout: float | None) -> bool:
        """Whether `hold` has ended within the time."""
        try:
            async with asyncio.timeout(timeout):
                await self._open.wait()
        except TimeoutError:
            return False
        return True

    def _snapshots(self, number: int, request: Request) -> Iterator[Snapshot]:
        """One, of nothing, before the request waits."""
        card = self._models.get(request.model)
        if card is not None and not isinstance(request, Encode) and request.snapshot_every:
            bare = Snapshot(number, 1, (), fingerprint(request), card.digest, _NUMERICS)
            yield seal(bare)

    def _resumed(self, request: Request) -> int:
        card = self._models.get(request.model)
        if card is None or isinstance(request, Encode) or request.resume is None:
            return 0
        fitting = fits(request.resume, request, card.digest, _NUMERICS)
        return request.resume.done if fitting else 0

    def _previews(self, number: int, request: Request) -> Iterator[Preview]:
        card = self._models.get(request.model)
        if card is None or isinstance(request, Encode):
            return
        n = request.z.shape[0] if isinstance(request, Decode) else request.n
        shape = _shape(card, request)
        for look, sample in itertools.product(range(request.previews), range(n)):
            pixels = _noise(request.seed, f"{request.first + sample}/{look}", math.prod(shape))
            yield Preview(number, sample, Array(shape, "uint8", pixels))

    def _end(self, number: int, request: Request) -> Event:
        card = self._models.get(request.model)
        if self._state == "stopped":
            return Error(number, "shutting_down", "the service is shutting down")
        if card is None or (isinstance(request, Generate) and card.kind == "autoencoder"):
            return Error(number, "unknown_model", "no such model here")
        if isinstance(request, Encode):
            bitrate = Bitrate(10.0, 0.5) if request.levels else None
            shape = card.latent_shape
            if is_clip(card):
                shape = (shape[0], request.image.shape[1] // stride(card), *shape[2:])
            stacked = _stack([_values(request.seed, 0, shape)], shape)
            return Result(number, latents=stacked, bitrate=bitrate, model=card.digest)
        n = request.z.shape[0] if isinstance(request, Decode) else request.n
        samples = range(request.first, request.first + n)
        if isinstance(request, Generate) and request.decode is None:
            rows = [_values(request.seed, i, card.latent_shape) for i in samples]
            return Result(number, latents=_stack(rows, card.latent_shape), model=card.digest)
        shape = _shape(card, request)
        pixels = b"".join(_noise(request.seed, i, math.prod(shape)) for i in samples)
        return Result(number, images=Array((n, *shape), "uint8", pixels), model=card.digest)


def _last_stage(request: Request) -> StageName:
    if isinstance(request, Encode):
        return "rate" if request.levels else "encode"
    return "base" if isinstance(request, Generate) and request.decode is None else "decode"


def _shape(card: ModelCard, request: Generate | Decode) -> tuple[int, ...]:
    """Of a sample: of a clip's, as long as its latent."""
    if is_clip(card) and isinstance(request, Decode):
        return (card.channels, request.z.shape[2] * stride(card), *card.size[1:])
    return (card.channels, *card.size)


def _noise(seed: int, sample: int | str, size: int) -> bytes:
    return hashlib.shake_256(f"{seed}/{sample}".encode()).digest(size)


def _values(seed: int, sample: int, shape: tuple[int, ...]) -> bytes:
    noise = _noise(seed, sample, math.prod(shape))
    return struct.pack(f"<{len(noise)}f", *(byte / 128 - 1 for byte in noise))


def _stack(rows: list[bytes], shape: tuple[int, ...]) -> Array:
    return Array((len(rows), *shape), "float32", b"".join(rows))
