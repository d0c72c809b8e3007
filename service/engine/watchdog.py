"""When an engine counts as silent, and when as hung: policy, without a clock.

It counts its own rounds, one ping each, and not the time: a parent that was stopped itself has
missed rounds, and must not blame its engine. An engine loads for as long as it likes, if it
answers; one that has not said anything yet has `patience`.
"""

from __future__ import annotations

from dataclasses import dataclass

PERIOD = 0.5
"""Seconds from one round to the next."""
_SILENT = 3


@dataclass
class Watchdog:
    """Watches one engine; all limits in seconds."""

    hang: float
    patience: float
    _unanswered: int = 0
    _stepless: int = 0
    _turns: tuple[float, float] = (0.0, 0.0)
    _awake: bool = False

    @property
    def silent(self) -> bool:
        """Whether the engine has left several pings unanswered."""
        return self._unanswered >= _SILENT

    def heard(self) -> None:
        """The engine has sent something."""
        self._unanswered, self._awake = 0, True

    def answered(self, turn: float) -> None:
        """It says that it has been at its present turn of the loop for `turn` seconds.

        Believed when said twice: a turn may have been long only because nobody read its messages.
        """
        self._turns = self._turns[1], turn

    def stepped(self) -> None:
        """It has ended a pass."""
        self._stepless = 0

    def round(self, *, working: bool) -> str | None:
        """Called before each ping: what the engine has done wrong, if it is to be replaced.

        `working`: it has been given requests. Its own word on its turn counts without any, because
        the clients of a pass that never ends leave one by one.
        """
        silence = self._unanswered * PERIOD
        self._unanswered += 1
        self._stepless = self._stepless + 1 if working else 0
        if silence > (self.hang if self._awake else self.patience):
            return f"no sign for {silence:.1f} s"
        stepless = max(min(self._turns), self._stepless * PERIOD)
        return f"no pass for {stepless:.1f} s" if stepless > self.hang else None
