"""The object store: a folder, or a bucket by URL. What is written is complete or absent.

Inputs and answers are named by the digest of their bytes; what belongs to one job by its id.
Calls run in threads: obstore's own coroutines abort the interpreter now and then as it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

_PATIENCE = timedelta(seconds=60)
"""In which a bucket is asked again and again."""

T = TypeVar("T")


class MissingObjectError(Exception):
    """There is no such object, or no more."""


class CorruptObjectError(Exception):
    """An object does not have the digest that names it."""


class ObjectsDownError(OSError):
    """The bucket does not answer, or says no."""


def open_store(url: str, folder: Path) -> Objects:
    """The store that `url` names (`s3://bucket/prefix`, `file:///…`); none: `folder`."""
    if not url:
        return Objects(LocalStore(prefix=str(folder), mkdir=True))
    if url.startswith("file:"):
        return Objects(from_url(url))
    return Objects(from_url(url, retry_config={"retry_timeout": _PATIENCE}))


class Objects:
    """Bytes by name."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, room: str, data: bytes) -> str:
        """Keep `data` under its digest, which is returned; its age starts anew."""
        digest = hashlib.sha256(data).hexdigest()
        await self.write(f"{room}/{digest}", data)
        return digest

    async def get(self, room: str, digest: str) -> bytes:
        """The bytes of a digest, checked against it."""
        data = await self.read(f"{room}/{digest}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptObjectError(f"the object {room}/{digest} is damaged")
        return data

    async def write(self, name: str, data: bytes) -> None:
        """Put an object in the place of what had its name; readers see one or the other."""
        await _call(name, lambda: obstore.put(self._store, name, data))

    async def read(self, name: str) -> bytes:
        """A whole object."""
        return await _call(name, lambda: bytes(obstore.get(self._store, name).bytes()))

    async def read_range(self, name: str, start: int, end: int) -> bytes:
        """The bytes `start` … `end − 1` of an object."""
        found = await _call(
            name, lambda: obstore.get_range(self._store, name, start=start, end=end)
        )
        return bytes(found)

    async def delete(self, name: str) -> None:
        """Forget an object; it need not be there."""
        with contextlib.suppress(MissingObjectError):
            await _call(name, lambda: obstore.delete(self._store, name))

    async def sweep(self, older: float) -> int:
        """Delete what was written more than `older` seconds ago; how many that were."""
        limit = datetime.now(UTC) - timedelta(seconds=older)
        return await _call("", lambda: self._sweep(limit))

    def _sweep(self, limit: datetime) -> int:
        count = 0
        for page in obstore.list(self._store):
            old = [meta["path"] for meta in page if meta["last_modified"] < limit]
            if old:
                obstore.delete(self._store, old)
                count += len(old)
        return count


async def _call(name: str, function: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(function)
    except (NotFoundError, FileNotFoundError) as error:
        raise MissingObjectError(name) from error
    except BaseError as error:
        said = f"the object store does not answer ({type(error).__name__})"
        raise ObjectsDownError(f"objects_unavailable: {said}") from error
