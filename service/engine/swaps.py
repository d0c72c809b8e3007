"""The parent's side of loading and unloading models while their engine runs."""

from __future__ import annotations

import asyncio
import itertools
from typing import TypeVar

import msgspec

from unified_latents.service.engine.messages import Checkpoint, ModelCard, Ready
from unified_latents.service.engine.protocol import Load, Loaded, Unload
from unified_latents.service.engine.seam import EngineError

Named = TypeVar("Named", Checkpoint, ModelCard)


def served(before: tuple[Checkpoint, ...], asked: Load | Unload) -> tuple[Checkpoint, ...]:
    """The checkpoints after a swap, for the next engine to load."""
    return _placed(before, asked, asked.checkpoint if isinstance(asked, Load) else None)


def described(before: Ready, asked: Load | Unload, card: ModelCard | None) -> Ready:
    """What is loaded after a swap."""
    return msgspec.structs.replace(before, models=_placed(before.models, asked, card))


def _placed(
    before: tuple[Named, ...], asked: Load | Unload, new: Named | None
) -> tuple[Named, ...]:
    """The new one where the old one was, else last: the first model is the one that none names."""
    name = asked.name if isinstance(asked, Unload) else asked.checkpoint.name
    after = {each.name: each for each in before}
    if new is None:
        after.pop(name, None)
    else:
        after[name] = new
    return tuple(after.values())


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
