"""Results that were made before: equal strict requests to equal engines give equal bytes."""

from __future__ import annotations

import anyio
import msgspec

from unified_latents.service.cache import ResultCache
from unified_latents.service.engine.messages import PROTOCOL, ModelCard, Ready, Request, Result


class Memory:
    """A cache of the engine's results; without one, of nothing."""

    def __init__(self, cache: ResultCache | None) -> None:
        self._cache = cache

    async def recall(self, request: Request, card: ModelCard, ready: Ready) -> Result | None:
        """The result of an equal request, if it is kept."""
        if self._cache is None or not _repeats(request):
            return None
        data = await anyio.to_thread.run_sync(self._cache.get, key(request, card, ready))
        return None if data is None else msgspec.msgpack.decode(data, type=Result)

    async def keep(self, request: Request, card: ModelCard, ready: Ready, done: Result) -> None:
        """Keep a result for an equal request."""
        if self._cache is None or not _repeats(request):
            return
        data = msgspec.msgpack.encode(msgspec.structs.replace(done, id=0))
        await anyio.to_thread.run_sync(self._cache.put, key(request, card, ready), data)


def _repeats(request: Request) -> bool:
    """Strict, from its beginning, and without looks that a kept result has not."""
    return request.strict and not getattr(request, "resume", None) and not _looks(request)


def _looks(request: Request) -> int:
    return getattr(request, "previews", 0) + getattr(request, "snapshot_every", 0)


def key(request: Request, card: ModelCard, ready: Ready) -> bytes:
    """All that a strict result is a function of, and nothing else."""
    bare = msgspec.structs.replace(
        request, id=0, model=card.digest, priority="normal", timeout=None
    )
    return msgspec.msgpack.encode((PROTOCOL, ready.numerics_strict, bare))
