from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from unified_latents.service.jobs.objects import (
    CorruptObjectError,
    MissingObjectError,
    open_store,
)


def test_bytes_are_named_by_their_digest(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        objects = open_store("", tmp_path / "a" / "b")
        name = await objects.put("answers", b"hello")
        assert name == hashlib.sha256(b"hello").hexdigest()
        assert await objects.put("answers", b"hello") == name
        assert await objects.get("answers", name) == b"hello"
        assert await objects.read_range(f"answers/{name}", 1, 3) == b"el"

    run(body)


def test_a_url_names_a_store_too(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        objects = open_store(f"file://{tmp_path}", Path("/nowhere"))
        await objects.write("done/x", b"1")
        assert (tmp_path / "done" / "x").read_bytes() == b"1"

    run(body)


def test_what_is_not_there_is_missing(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        objects = open_store("", tmp_path)
        with pytest.raises(MissingObjectError):
            await objects.read("answers/x")
        with pytest.raises(MissingObjectError):
            await objects.read_range("answers/x", 0, 1)
        await objects.delete("answers/x")

    run(body)


def test_damage_is_noticed(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        objects = open_store("", tmp_path)
        name = await objects.put("inputs", b"hello")
        (tmp_path / "inputs" / name).write_bytes(b"hellp")
        with pytest.raises(CorruptObjectError):
            await objects.get("inputs", name)

    run(body)


def test_sweeping_takes_what_is_old(run: Callable[..., None], tmp_path: Path) -> None:
    async def body() -> None:
        objects = open_store("", tmp_path)
        name = await objects.put("answers", b"hello")
        assert await objects.sweep(60) == 0
        assert await objects.sweep(-60) == 1
        with pytest.raises(MissingObjectError):
            await objects.get("answers", name)

    run(body)
