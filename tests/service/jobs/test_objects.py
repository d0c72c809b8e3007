from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.bucket import Bucket
from unified_latents.service.jobs.objects import (
    CorruptObjectError,
    MissingObjectError,
    Objects,
    open_store,
)


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where objects lie: in a folder, or with a server that speaks S3."""
    if request.param == "folder":
        return f"file://{tmp_path}"
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket.empty(request.getfixturevalue("monkeypatch"))


@pytest.fixture
def objects(url: str) -> Objects:
    return open_store(url, Path("/nowhere"))


def test_bytes_are_named_by_their_digest(run: Callable[..., None], objects: Objects) -> None:
    async def body() -> None:
        name = await objects.put("answers", b"hello")
        assert name == hashlib.sha256(b"hello").hexdigest()
        assert await objects.put("answers", b"hello") == name
        assert await objects.get("answers", name) == b"hello"
        assert await objects.read_range(f"answers/{name}", 1, 3) == b"el"

    run(body)


def test_a_folder_is_made_where_no_url_is_named(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        await open_store("", tmp_path / "a" / "b").write("done/x", b"1")
        assert (tmp_path / "a" / "b" / "done" / "x").read_bytes() == b"1"

    run(body)


def test_what_is_not_there_is_missing(run: Callable[..., None], objects: Objects) -> None:
    async def body() -> None:
        with pytest.raises(MissingObjectError):
            await objects.read("answers/x")
        with pytest.raises(MissingObjectError):
            await objects.read_range("answers/x", 0, 1)
        await objects.delete("answers/x")

    run(body)


def test_damage_is_noticed(run: Callable[..., None], objects: Objects) -> None:
    async def body() -> None:
        name = await objects.put("inputs", b"hello")
        await objects.write(f"inputs/{name}", b"hellp")
        with pytest.raises(CorruptObjectError):
            await objects.get("inputs", name)

    run(body)


def test_sweeping_takes_what_is_old(run: Callable[..., None], objects: Objects) -> None:
    async def body() -> None:
        names = [await objects.put("answers", bytes([i])) for i in range(5)]
        assert await objects.sweep(60) == 0
        assert await objects.sweep(-60) == 5
        for name in names:
            with pytest.raises(MissingObjectError):
                await objects.get("answers", name)

    run(body)


def test_a_reader_sees_one_version_or_the_other(run: Callable[..., None], objects: Objects) -> None:
    """Of objects of several parts; the last one written is the one that stays."""
    versions = [bytes([turn]) * (11 * 2**20) for turn in range(4)]

    async def body() -> None:
        await objects.write("states/x", versions[0])
        written = asyncio.ensure_future(_write_all(objects, versions[1:]))
        seen = [await objects.read("states/x")]
        while not written.done():
            seen.append(await objects.read("states/x"))
        assert all(data in versions for data in seen)
        assert await objects.read("states/x") == versions[-1]
        part = await objects.read_range("states/x", 5 * 2**20 - 1, 5 * 2**20 + 1)
        assert part == versions[-1][:2]

    run(body)


async def _write_all(objects: Objects, versions: list[bytes]) -> None:
    for version in versions:
        await objects.write("states/x", version)
