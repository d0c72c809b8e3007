"""The parent's side of loading and unloading models while their engine runs."""

from __future__ import annotations

import asyncio
import itertools

import msgspec

from unified_latents.service.engine.messages import Checkpoint, ModelCard, Ready
from unified_latents.service.engine.protocol import Load, Loaded, Unload
from unified_latents.service.engine.seam import EngineError


def served(before: tuple[Checkpoint, ...], asked: Load | Unload) -> tuple[Checkpoint, ...]:
    """The checkpoints after a swap, for the next engine to load."""
    name = asked.name if isinstance(asked, Unload) else asked.checkpoint.name
    kept = [each for each in before if each.name != name]
    return (*kept, asked.checkpoint) if isinstance(asked, Load) else tuple(kept)


def described(before: Ready, asked: Load | Unload, card: ModelCard | None) -> Ready:
    """What is loaded after a swap."""
    name = asked.name if isinstance(asked, Unload) else asked.checkpoint.name
    kept = [each for each in before.models if each.name != name]
    return msgspec.structs.replace(before, models=(*kept, card) if card else tuple(kept))


class Swaps:
    """Swaps that an engine has been asked for and has not answered."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[Load | Unload, asyncio.Future[ModelCard | None]]] = {}

    def load(self, checkpoint: Checkpoint, *, other_space: bool) -> Load:
        """A request to load."""
        return Load(next(self._ids), checkpoint, other_space)

    def unload(self, name: str) -> Unload:
        """A request to unload."""
        return Unload(next(self._ids), name)

    async def wait(self, asked: Load | Unload) -> ModelCard | None:
        """Until the engine has done it: the new card, if any; `EngineError` where it has not."""
        future: asyncio.Future[ModelCard | None] = asyncio.get_running_loop().create_future()
        self._waiting[asked.id] = asked, future
        try:
            return await future
        finally:
            self._waiting.pop(asked.id, None)

    def answer(self, loaded: Loaded) -> Load | Unload | None:
        """The engine's answer; what was asked, if it has been done."""
        asked, future = self._waiting.pop(loaded.id, (None, None))
        if asked is None or future is None:
            return None
        if loaded.error is None:
            if not future.done():
                future.set_result(loaded.card)
            return asked
        if not future.done():
            future.set_exception(EngineError("load_failed", loaded.error))
        return None

    def abandon(self) -> None:
        """The engine died before it answered."""
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineError("engine_lost", "the engine died while it loaded"))
        self._waiting.clear()
