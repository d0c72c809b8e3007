from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.test_fashion_mnist import Source
from unified_latents.training.data import fashion_mnist
from unified_latents.training.data.card import DataCard, DataError
from unified_latents.training.data.moving_sprites import (
    LABELS,
    SPRITE,
    Scene,
    clip,
    half_size,
    path,
    prepare_moving_sprites,
    rows,
)
from unified_latents.training.data.sets import load

SCENE = Scene(side=24, frames=6, most=3)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Fashion-MNIST of a few pictures."""
    made = Source(tmp_path / "source", zipped=False)
    real = fashion_mnist.find
    monkeypatch.setattr(fashion_mnist, "find", lambda source: real(source, made.digests))
    return made.folder


def prepare(out: Path, source: Path, seed: int = 0) -> DataCard:
    return prepare_moving_sprites(out, SCENE, (9, 4), seed, source)


def test_clips_are_read_as_they_were_made(source: Path, tmp_path: Path) -> None:
    card = prepare(tmp_path / "out", source)
    data = load(tmp_path / "out")
    assert data.card == card
    assert (card.counts, card.size, card.content) == ({"train": 9, "test": 4}, *[(6, 24, 24)] * 2)
    assert card.labels == LABELS
    assert "Fashion-MNIST" in card.source
    sprites = half_size(fashion_mnist.find(source)["test"].images)
    for i, row in enumerate(rows(sprites, SCENE, 4, (0, 1))):
        batch = data.test.batch([i])
        assert batch.image.shape == (1, 1, 6, 24, 24)
        np.testing.assert_array_equal(batch.image.reshape(6 * 24, 24), np.asarray(row.image))
        assert batch.label.item() == row.label


def test_a_seed_gives_bytes_and_another_gives_others(source: Path, tmp_path: Path) -> None:
    first, again = prepare(tmp_path / "a", source), prepare(tmp_path / "b", source)
    assert first.sha256 == again.sha256
    assert prepare(tmp_path / "c", source, seed=1).sha256 != first.sha256


def test_a_clip_does_not_depend_on_how_many_there_are(source: Path) -> None:
    sprites = half_size(fashion_mnist.find(source)["train"].images)
    few, more = list(rows(sprites, SCENE, 3, (5, 0))), list(rows(sprites, SCENE, 8, (5, 0)))
    assert [np.asarray(row.image).tobytes() for row in few] == [
        np.asarray(row.image).tobytes() for row in more[:3]
    ]


def test_every_frame_shows_the_sprite_where_its_path_is() -> None:
    sprite = np.arange(1, SPRITE**2 + 1, dtype=np.uint8).reshape(SPRITE, SPRITE)
    frames = clip(sprite[None], SCENE, np.random.default_rng(4))
    corners = path(SCENE, SPRITE, np.random.default_rng(4))
    for frame, (y, x) in zip(frames, corners, strict=True):
        np.testing.assert_array_equal(frame[y : y + SPRITE, x : x + SPRITE], sprite)
        assert np.count_nonzero(frame) == np.count_nonzero(sprite)


def test_the_brighter_of_two_sprites_shows() -> None:
    sprites = np.stack([np.full((SPRITE, SPRITE), level, np.uint8) for level in (90, 200)])
    frames = clip(sprites, SCENE, np.random.default_rng(0))
    assert ((frames == 200).sum((1, 2)) == SPRITE**2).all()


def test_paths_are_straight_at_their_speed_and_stay_inside() -> None:
    scene, random = Scene(side=60, frames=40, speed=(1.5, 1.5)), np.random.default_rng(2)
    for _ in range(20):
        corners = path(scene, SPRITE, random)
        assert corners.min() >= 0
        assert corners.max() <= 60 - SPRITE
        steps = np.abs(np.diff(corners, axis=0))
        assert steps.max() <= 2
        # rounding moves an end by half a pixel; reflections shorten what is left of an axis
        assert np.linalg.norm(steps.mean(0)) <= 1.5 + 2 / 40


def test_a_wall_reflects() -> None:
    scene = Scene(side=SPRITE + 4, frames=200, speed=(1.0, 1.0))
    corners = path(scene, SPRITE, np.random.default_rng(1))
    assert corners.min(0).tolist() == [0, 0]
    assert corners.max(0).tolist() == [4, 4]


def test_half_size_is_the_mean_of_four() -> None:
    picture = np.array([[[0, 2, 8, 8], [4, 6, 8, 8]]], np.uint8)
    np.testing.assert_array_equal(half_size(picture), [[[3, 8]]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 14}, "side must lie in 15"),
        ({"frames": 0}, "frames must lie in 1"),
        ({"most": 4}, "sprites must lie in 1"),
    ],
)
def test_scenes_that_cannot_be(change: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Scene(**change)  # type: ignore[arg-type]


def test_counts_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"counts must be positive"):
        prepare_moving_sprites(tmp_path, counts=(0, 4))
