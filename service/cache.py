"""Results kept by what they are a function of: a folder of files, bounded in bytes.

A file is named by the digest of its key and begins with the digest of its contents, which every
read verifies. Whichever was used the longest ago goes first. A folder that cannot be written or
read (full, gone) turns the cache off with a warning: it is never a request's fault.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Outcome = Literal["hit", "miss", "stored", "corrupt", "evicted", "off"]
_DIGEST = 32
_ROOM = 0.9
"""Part of the bound that is left full after something had to go."""

log = logging.getLogger(__name__)


class ResultCache:
    """Files of `folder`, at most `max_bytes` together. Safe to use from several threads."""

    def __init__(
        self, folder: Path, max_bytes: int, on_outcome: Callable[[Outcome], None] = lambda _: None
    ) -> None:
        self._folder = folder
        self._max = max_bytes
        self._on_outcome = on_outcome
        self._lock = threading.Lock()
        self._bytes = 0
        self.on = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._bytes = sum(size for _, size, _ in self._files())
        except OSError as error:
            self._give_up(error)

    @property
    def size(self) -> int:
        """What the files hold together."""
        return self._bytes

    def get(self, key: bytes) -> bytes | None:
        """What was put there, if it is still there and whole."""
        if not self.on:
            return None
        path = self._path(key)
        try:
            held = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            self._on_outcome("miss")
            return None
        except OSError as error:
            self._give_up(error)
            return None
        digest, data = held[:_DIGEST], held[_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            self._drop(path, len(held))
            self._on_outcome("corrupt")
            return None
        self._on_outcome("hit")
        return data

    def put(self, key: bytes, data: bytes) -> None:
        """Keep it; what is larger than the whole cache is not kept."""
        size = _DIGEST + len(data)
        if not self.on or size > self._max:
            return
        path = self._path(key)
        passing = self._folder / f".{secrets.token_hex(8)}"
        try:
            try:
                passing.write_bytes(hashlib.sha256(data).digest() + data)
                before = path.stat().st_size if path.exists() else 0
                passing.replace(path)
            finally:
                passing.unlink(missing_ok=True)
            with self._lock:
                self._bytes += size - before
            self._on_outcome("stored")
            if self._bytes > self._max:
                self._evict()
        except OSError as error:
            self._give_up(error)

    def _path(self, key: bytes) -> Path:
        return self._folder / hashlib.sha256(key).hexdigest()

    def _files(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of every file; one that another process removed is none."""
        found: list[tuple[float, int, Path]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.is_file(follow_symlinks=False):
                    found.append((stat.st_mtime_ns, stat.st_size, Path(entry.path)))
        return found

    def _evict(self) -> None:
        """The longest unused, until a tenth of the bound is free; counted anew."""
        with self._lock:
            files = sorted(self._files())
            self._bytes = sum(size for _, size, _ in files)
            for _, size, path in files:
                if self._bytes <= self._max * _ROOM:
                    break
                path.unlink(missing_ok=True)
                self._bytes -= size
                self._on_outcome("evicted")

    def _drop(self, path: Path, size: int) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)
        with self._lock:
            self._bytes -= size

    def _give_up(self, error: OSError) -> None:
        if self.on:
            self.on = False
            self._on_outcome("off")
            log.warning("the cache in %s is off from here on: %s", self._folder, error.strerror)
