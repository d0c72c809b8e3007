"""Which samples share the next pass: policy, without torch and without a clock.

Groups that could share a pass take turns; inside one, every request gives its first sample
before any gives its second. So work is never held back, and nobody starves behind a large request.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from unified_latents.service.engine.telemetry import StageName


class Group(NamedTuple):
    """What samples must share to share a pass."""

    stage: StageName
    model: str
    strict: bool
    alone: int = 0
    """The request's id where its samples share with nobody else's; otherwise 0."""


class Item(Protocol):
    """What the policy needs to know of a sample."""

    @property
    def group(self) -> Group: ...

    @property
    def rows(self) -> int: ...


T = TypeVar("T", bound=Item)


class Pool(Generic[T]):
    """Samples waiting for their next pass, by group and owner, in order of arrival."""

    def __init__(self) -> None:
        self._groups: dict[Group, dict[int, list[T]]] = {}

    def sizes(self) -> dict[Group, int]:
        """Samples waiting in each group; groups without any are absent."""
        return {
            group: sum(len(items) for items in owners.values())
            for group, owners in self._groups.items()
        }

    def add(self, owner: int, item: T) -> None:
        """A sample joins at the next pass."""
        self._groups.setdefault(item.group, {}).setdefault(owner, []).append(item)

    def discard(self, owner: int, item: T) -> None:
        """A sample has left its stage; nothing happens if it already had."""
        items = self._groups.get(item.group, {}).get(owner, [])
        if item in items:
            items.remove(item)
            self._prune()

    def drop(self, owner: int) -> None:
        """Every sample of an owner leaves."""
        for owners in self._groups.values():
            owners.pop(owner, None)
        self._prune()

    def pick(self, capacity: int) -> list[T]:
        """The next pass: one group's samples, at most `capacity` rows, at least one sample.

        The group moves to the end of the line.
        """
        group = next(iter(self._groups), None)
        if group is None:
            return []
        owners = self._groups[group] = self._groups.pop(group)
        picked: list[T] = []
        used = 0
        for item in _take_turns(list(owners.values())):
            if picked and used + item.rows > capacity:
                break
            picked.append(item)
            used += item.rows
        return picked

    def _prune(self) -> None:
        for group, owners in list(self._groups.items()):
            for owner in [owner for owner, items in owners.items() if not items]:
                del owners[owner]
            if not owners:
                del self._groups[group]


def _take_turns(queues: list[list[T]]) -> Iterator[T]:
    """First of each, second of each, …"""
    for rank in itertools.zip_longest(*queues):
        yield from (item for item in rank if item is not None)
