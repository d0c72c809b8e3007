from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from unified_latents.service.cache import Outcome, ResultCache


class Kept:
    """A cache and what became of its results."""

    def __init__(self, folder: Path, max_bytes: int = 1000) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.cache = ResultCache(folder, max_bytes, self._count)

    def _count(self, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1


def _age(folder: Path, oldest: int) -> None:
    """Make every file so old, the first one put oldest: file times are coarser than a test."""
    for i, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, ns=(oldest + i, oldest + i))


def test_what_was_put_is_there_and_stays_over_a_restart(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "a" / "b")
    assert kept.cache.get(b"k") is None
    kept.cache.put(b"k", b"value")
    kept.cache.put(b"k", b"value")
    assert kept.cache.get(b"k") == b"value"
    assert kept.outcomes == {"miss": 1, "stored": 2, "hit": 1}
    again = ResultCache(tmp_path / "a" / "b", 1000)
    assert again.get(b"k") == b"value"
    assert again.size == kept.cache.size == 32 + 5


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 500)
    for name in (b"a", b"b", b"c"):
        kept.cache.put(name, bytes(100))
        _age(tmp_path, 1)
    assert kept.cache.get(b"a") is not None
    kept.cache.put(b"d", bytes(100))
    assert kept.cache.size <= 450
    assert kept.cache.get(b"b") is None
    assert all(kept.cache.get(name) is not None for name in (b"a", b"c", b"d"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == kept.cache.size


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path, 500)
    kept.cache.put(b"k", bytes(500))
    assert kept.cache.get(b"k") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"x", bytes(37)])
def test_a_damaged_file_is_not_an_answer(tmp_path: Path, damage: bytes) -> None:
    kept = Kept(tmp_path)
    kept.cache.put(b"k", b"value")
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert kept.cache.get(b"k") is None
    assert kept.outcomes["corrupt"] == 1
    assert kept.cache.on
    assert not path.exists()


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.cache.put(b"k", b"value")
    (path,) = tmp_path.iterdir()
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    assert kept.cache.get(b"k") is None


def test_a_folder_that_is_gone_turns_it_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file now")
    kept.cache.put(b"k", b"value")
    kept.cache.put(b"k", b"value")
    assert kept.cache.get(b"k") is None
    assert (kept.cache.on, kept.outcomes) == (False, {"off": 1})
    assert "is off from here on" in caplog.text
    other = Kept(tmp_path / "cache" / "below")
    assert (other.cache.on, other.outcomes) == (False, {"off": 1})


def test_a_full_disk_turns_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write as a full disk does."""
    kept = Kept(tmp_path)
    (tmp_path / ".full").symlink_to("/dev/full")
    monkeypatch.setattr("secrets.token_hex", lambda size: "full")
    kept.cache.put(b"k", b"value")
    assert (kept.cache.on, kept.outcomes) == (False, {"off": 1})
    assert kept.cache.get(b"k") is None
    assert list(tmp_path.iterdir()) == []
