from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified_latents.training.data import animated_emoji
from unified_latents.training.data.animated_emoji import PACKAGES, is_test, prepare_animated_emoji
from unified_latents.training.data.card import DataError, read_card
from unified_latents.training.data.sets import load

ENTRIES = [
    {"unified": "1F436", "name": "DOG FACE", "short_name": "dog", "category": "Animals"},
    {"unified": "1F431", "name": "CAT FACE", "short_name": "cat", "category": "Animals"},
    {"unified": "2600-FE0F", "name": "SUN", "short_name": "sunny", "category": "Travel"},
    {"unified": "1F319", "name": "MOON", "short_name": "moon", "category": "Travel"},
]


def webp(path: Path, frames: int) -> None:
    """A red square on transparency that grows darker with each frame."""
    made = []
    for k in range(frames):
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[8:24, 8:24] = (255 - 5 * k, 0, 0, 255)
        made.append(Image.fromarray(pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    made[0].save(path, save_all=True, append_images=made[1:], duration=42, lossless=True)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Four emoji in two packages, of which one stands still; one that nobody names."""
    folder = tmp_path / "node_modules"
    assets = (folder / f"@lobehub/fluent-emoji-anim-{part}/assets" for part in (1, 2))
    first, second = assets
    webp(first / "1f436.webp", 32)
    webp(first / "1f431.webp", 16)
    webp(second / "2600-fe0f.webp", 20)
    webp(second / "1f319.webp", 1)
    webp(second / "1f9ff.webp", 20)
    (folder / "emoji-datasource-google").mkdir()
    (folder / "emoji-datasource-google/emoji.json").write_text(json.dumps(ENTRIES))
    return folder


def test_clips_are_spread_over_their_loop_on_white(modules: Path, tmp_path: Path) -> None:
    card = prepare_animated_emoji(tmp_path / "out", modules, side=16)
    data = load(tmp_path / "out")
    assert (card.size, card.channels, card.labels) == ((16, 16, 16), 3, ("Animals", "Travel"))
    assert card.counts == {"train": 1, "test": 2}
    # the dog's 32 frames are every second one; cat and dog are of the test split by their names
    dog = next(clip for clip in data.test.batch([0, 1]).image if clip[0, 1, 8, 8] == 245)
    assert dog[0, :, 8, 8].tolist() == [255 - 10 * k for k in range(16)]
    assert (dog[:, :, 0, 0] == 255).all()
    assert data.train.batch([0]).label.item() == 1


def test_converted_clips_give_the_same_set(modules: Path, tmp_path: Path) -> None:
    card = prepare_animated_emoji(tmp_path / "a", modules, side=16)
    clips = sorted(animated_emoji._read(modules, 16), key=lambda clip: clip.emoji.name)
    arrays: dict[str, Any] = {
        "videos": np.stack([clip.frames for clip in clips]),
        "names": np.array([clip.emoji.name for clip in clips]),
        "groups": np.array([clip.emoji.group for clip in clips]),
    }
    np.savez(tmp_path / "clips.npz", **arrays)
    again = prepare_animated_emoji(tmp_path / "b", tmp_path / "clips.npz")
    assert (again.counts, again.labels) == (card.counts, card.labels)
    assert again.sha256["train.parquet"] == card.sha256["train.parquet"]
    assert read_card(tmp_path / "b") == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": np.zeros((1, 15, 16, 16, 3), np.uint8)}, "not uint8"),
        ({"videos": np.zeros((1, 16, 16, 16, 3), np.float32)}, "not uint8"),
        ({"names": np.array(["a", "b"])}, "2 names"),
        ({"groups": None}, "groups"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    fit: dict[str, Any] = {"videos": np.zeros((1, 16, 16, 16, 3), np.uint8)}
    fit |= {"names": np.array(["a"]), "groups": np.array(["b"])} | change
    np.savez(tmp_path / "clips.npz", **{k: v for k, v in fit.items() if v is not None})
    with pytest.raises(DataError, match=message):
        prepare_animated_emoji(tmp_path / "out", tmp_path / "clips.npz")


def test_a_broken_clip_is_named(modules: Path, tmp_path: Path) -> None:
    path = modules / "@lobehub/fluent-emoji-anim-1/assets/1f436.webp"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"1f436\.webp"):
        prepare_animated_emoji(tmp_path / "out", modules)


def test_a_folder_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no emoji-datasource-google/emoji\.json"):
        prepare_animated_emoji(tmp_path / "out", tmp_path)


def test_npm_installs_without_scripts(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def install(command: list[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        modules.rename(cwd / "node_modules")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("subprocess.run", install)
    card = prepare_animated_emoji(tmp_path / "out", side=16)
    assert card.counts == {"train": 1, "test": 2}
    assert asked[0][:3] == ["/bin/npm", "install", "--ignore-scripts"]
    assert set(PACKAGES) <= set(asked[0])


def test_npm_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    failed = subprocess.CompletedProcess([], 1, "", "npm error no such registry\n")
    monkeypatch.setattr("subprocess.run", lambda *a, **k: failed)
    with pytest.raises(DataError, match="npm failed: npm error no such registry"):
        prepare_animated_emoji(tmp_path / "out")


def test_a_tenth_of_the_names_is_for_testing() -> None:
    share = sum(is_test(f"name {k}") for k in range(2000)) / 2000
    assert 0.08 < share < 0.12
