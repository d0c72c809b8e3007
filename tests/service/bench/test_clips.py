from __future__ import annotations

from unified_latents.service.bench import clips
from unified_latents.service.bench.clips import BOUND, Held


def test_a_long_clip_is_decoded_in_the_memory_of_a_short_one() -> None:
    """The shipped model of clips in engines of their own: four times the frames, by windows."""
    short, long = clips.run("sprites", "sprites", 1, [16, 64], 2)
    assert (short.windows, long.windows) == (1, 7)
    assert short.peak >= short.before > 0
    assert long.peak <= BOUND * short.peak


def test_what_is_kept_and_missed_is_said() -> None:
    said: list[str] = []
    held = [Held(16, 1, 90, 100, 1), Held(64, 7, 90, 130, 2), Held(256, 31, 90, 131, 3)]
    clips.table(held, said.append)
    assert [line.rpartition("  ")[2] for line in said[2:]] == ["kept", "MISSED"]
    assert "1.30" in said[2]
