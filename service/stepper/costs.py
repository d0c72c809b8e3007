"""What passes cost on this machine: learned from every pass, kept from one engine to the next.

The file is a convenience: one that is damaged, or was measured under another numerics id, is as
good as none.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from unified_latents.service.engine.forecast import CostTable, Key
from unified_latents.service.engine.telemetry import Cost, Costs, bucket

_RATE = 0.1
"""Weight of the newest pass in a running mean that has many."""
_OUTLIER = 4.0
"""A pass counts for at most so many times what its bucket took so far: a machine may pause."""
_BIAS_RANGE = 0.5, 4.0

log = logging.getLogger(__name__)


class _File(msgspec.Struct):
    numerics: str
    costs: tuple[Cost, ...]


class CostModel:
    """A table that learns. `file` absent: nothing is kept."""

    def __init__(self, numerics: str, file: Path | None = None) -> None:
        self.table = CostTable(_read(file, numerics))
        self.bias = 1.0
        self._numerics = numerics
        self._file = file
        self._seen: dict[tuple[Key, int], int] = {}

    def observe(self, key: Key, rows: int, seconds: float) -> None:
        """A pass of `rows` took `seconds`."""
        place = bucket(rows)
        known = self.table.points.get(key, {}).get(place)
        seen = self._seen[key, place] = self._seen.get((key, place), 0) + 1
        if known is None:
            self.table.put(Cost(*key, place, float(rows), seconds))
            return
        weight = max(_RATE, 1 / seen)
        seconds = min(seconds, _OUTLIER * known.seconds) if seen > 1 else seconds
        mean_rows = known.rows + weight * (rows - known.rows)
        mean = known.seconds + weight * (seconds - known.seconds)
        self.table.put(Cost(*key, place, mean_rows, mean))

    def learn(self, forecast: float, actual: float) -> None:
        """A request took `actual` seconds where `forecast` (without bias) had been said."""
        if forecast > 0:
            low, high = _BIAS_RANGE
            ratio = min(max(actual / forecast, low), high)
            self.bias += _RATE * (ratio - self.bias)

    @property
    def message(self) -> Costs:
        """All that is known, for the parent."""
        return Costs(self.table.all(), self.bias)

    def save(self) -> None:
        """Write the file, whole or not at all; a full disk costs a line in the log."""
        if self._file is None:
            return
        content = msgspec.json.encode(_File(self._numerics, self.table.all()))
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(self._file)
        except OSError as error:
            log.warning("the costs are not kept: %s", error.strerror)
            with contextlib.suppress(OSError):
                draft.unlink()


def _read(file: Path | None, numerics: str) -> tuple[Cost, ...]:
    if file is None or not file.is_file():
        return ()
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s is ignored: %s", file, error)
        return ()
    sound = all(
        cost.rows > 0 and 0 < cost.seconds < 3600 and cost.bucket > 0 for cost in kept.costs
    )
    return kept.costs if sound and kept.numerics == numerics else ()
