"""Which requests an engine is given, by how many engines have died under each.

Requests share an engine until two have died under one. Such suspects are tried alone, one after
another, before anything else: so a third death has one culprit, and the requests that only stood
beside it are answered.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_DEATHS = 3
_SUSPECT = 2


class Burial(NamedTuple):
    """What an engine's death means for the requests that it had."""

    lost: list[int]
    """They end here."""
    suspects: int
    """How many are tried alone from here on."""


class Replay:
    """The requests of one parent, by number, in order of arrival."""

    def __init__(self) -> None:
        self._deaths: dict[int, int] = {}
        self._sent: set[int] = set()

    def add(self, number: int) -> None:
        """A new request."""
        self._deaths[number] = 0

    def remove(self, number: int) -> bool:
        """A request that has ended or was left by its client; whether the engine has it."""
        self._deaths.pop(number, None)
        had = number in self._sent
        self._sent.discard(number)
        return had

    def send(self) -> list[int]:
        """What a running engine is to be given now; it has them from here on."""
        suspects = [number for number, deaths in self._deaths.items() if deaths >= _SUSPECT]
        if not suspects:
            chosen = [number for number in self._deaths if number not in self._sent]
        else:
            chosen = [] if self._sent else suspects[:1]
        self._sent.update(chosen)
        return chosen

    def bury(self) -> Burial:
        """The engine died under all that it had."""
        for number in self._sent:
            self._deaths[number] += 1
        lost = [number for number in self._sent if self._deaths[number] >= MAX_DEATHS]
        for number in lost:
            del self._deaths[number]
        suspects = sum(self._deaths.get(number) == _SUSPECT for number in self._sent)
        self._sent.clear()
        return Burial(lost, suspects)
