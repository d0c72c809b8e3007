from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from unified_latents.service.engine.messages import Array
from unified_latents.service.http import clips, images
from unified_latents.service.http.clips import Film, read, write
from unified_latents.service.http.problems import Problem

FILMS = get_args(Film)
PIXELS = 10_000


def moving(channels: int = 1, frames: int = 6, size: tuple[int, int] = (16, 24)) -> Array:
    """A bright square that moves two pixels a frame, [1, c, t, H, W]."""
    clip = np.zeros((1, channels, frames, *size), np.uint8)
    for k in range(frames):
        clip[..., k, 4:10, 2 * k : 2 * k + 6] = 230
    return Array(clip.shape, "uint8", clip.tobytes())


def values(frames: list[Image.Image], mode: str = "L") -> Any:
    return np.stack([np.asarray(frame.convert(mode)).astype(np.int16) for frame in frames])


def still(height: int = 16, width: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 7).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("film", FILMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_can_be_read(film: Film, channels: int) -> None:
    clip = moving(channels)
    [file] = write(clip, film)
    frames = read([file], 6, PIXELS, "clip")
    pixels = np.frombuffer(clip.data, np.uint8).reshape(clip.shape)[0, 0]
    assert len(frames) == 6
    worst = np.abs(values(frames) - pixels).mean()
    assert worst <= (0 if film in ("gif", "apng") else 4)


@pytest.mark.parametrize("film", FILMS)
def test_equal_pixels_give_equal_bytes(film: Film) -> None:
    assert write(moving(), film) == write(moving(), film)
    assert write(moving(), film) != write(moving(frames=5), film)


def test_odd_sides_are_padded_for_film_only() -> None:
    clip = moving(size=(15, 23))
    assert {f.size for f in read(write(clip, "mp4"), 6, PIXELS, "clip")} == {(24, 16)}
    assert {f.size for f in read(write(clip, "apng"), 6, PIXELS, "clip")} == {(23, 15)}


def test_stills_and_clips_follow_each_other() -> None:
    [film] = write(moving(frames=3), "apng")
    assert len(read([still(), film, still()], 5, PIXELS, "frames")) == 5


@pytest.mark.parametrize("film", FILMS)
def test_the_first_frame_too_many_ends_it(
    film: Film, check: Callable[[Problem], tuple[str, object]]
) -> None:
    with pytest.raises(Problem) as caught:
        read(write(moving(frames=6), film), 5, PIXELS, "clip")
    assert check(caught.value) == ("clip", 5)


def test_frames_of_two_sizes_are_refused(check: Callable[[Problem], tuple[str, object]]) -> None:
    with pytest.raises(Problem) as caught:
        read([still(), still(16, 16)], 5, PIXELS, "frames")
    assert check(caught.value) == ("frames[1]", "16x24")


@pytest.mark.parametrize("film", FILMS)
def test_pixels_are_bounded(film: Film, check: Callable[[Problem], tuple[str, object]]) -> None:
    with pytest.raises(Problem) as caught:
        read(write(moving(), film), 6, 100, "clip")
    assert check(caught.value) == ("clip[0]", 100)


@pytest.mark.parametrize("film", FILMS)
@pytest.mark.parametrize("kept", [0, 11, 40, 0.5])
def test_half_a_file_is_a_problem_or_fewer_frames(film: Film, kept: float) -> None:
    [file] = write(moving(), film)
    length = int(kept * len(file)) if kept == 0.5 else int(kept)
    frames: list[Image.Image] = []
    with suppress(Problem):
        frames = read([file[:length]], 6, PIXELS, "clip")
    assert len(frames) < 6


def test_noise_is_no_clip() -> None:
    rng = np.random.default_rng(0)
    for head in (b"", b"\0\0\0\x20ftypisom", b"\x1a\x45\xdf\xa3", b"GIF89a", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(Problem):
            read([head + rng.bytes(400)], 6, PIXELS, "clip")


def test_fitted_frames_are_stacked_in_time() -> None:
    frames = [images.Fitted.model_construct(pixels=bytes([k] * 6)) for k in range(3)]
    clip = clips.stack(frames, 1, (2, 3))
    assert clip.shape == (1, 3, 2, 3)
    assert np.frombuffer(clip.data, np.uint8).reshape(clip.shape)[0, :, 0, 0].tolist() == [0, 1, 2]


@pytest.fixture
def check() -> Callable[[Problem], tuple[str, object]]:
    """The field and the limit of a 422 about one."""

    def read_problem(problem: Problem) -> tuple[str, object]:
        assert problem.status == 422
        [error] = problem.errors
        return error.field, error.limit

    return read_problem
