"""Snapshots that survive `kill -9` at any moment.

A snapshot is written beside its final place, flushed to the disk, and renamed; so a folder
named `step-…` is always whole. The last two are kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_KEEP = 2
_PREFIX = "step-"
_PARTIAL = ".partial-"


def commit(partial: Path, target: Path) -> None:
    """Flush a filled folder to the disk and rename it to `target`, which must not exist."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    partial.rename(target)
    _sync(target.parent)


def partial_folder(folder: Path, step: int) -> Path:
    """Where a snapshot is filled before `commit`."""
    return folder / f"{_PARTIAL}{_PREFIX}{step:09d}"


def snapshot_folder(folder: Path, step: int) -> Path:
    """Where the snapshot of a step lies."""
    return folder / f"{_PREFIX}{step:09d}"


def snapshots(folder: Path) -> list[Path]:
    """All whole snapshots, oldest first."""
    return sorted(path for path in folder.glob(_PREFIX + "*") if path.is_dir())


def step_of(snapshot: Path) -> int:
    """How many steps had been done when it was taken."""
    return int(snapshot.name.removeprefix(_PREFIX))


def prune(folder: Path) -> None:
    """Remove all but the newest two, and what an interrupted write left."""
    for path in [*snapshots(folder)[:-_KEEP], *folder.glob(_PARTIAL + "*")]:
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
