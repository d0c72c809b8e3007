from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from unified_latents.training import __main__ as commands


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """`ul-train …` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["ul-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stage1", "fashion", "--data", "absent"), "absent is no folder"),
        (("stage1", "fashion", "--data", "{set}"), "takes images of"),
        (("stage1", "fashon", "--data", "{set}"), "no recipe 'fashon'; there are: fashion"),
        (("stage1", "fashion", "--data", "{empty}"), "card.json"),
        (("stage2", "fashion", "--data", "{set}", "--stage1", "absent"), "absent"),
        (("stage1", "fashion", "--data", "{set}", "--snapshot-minutes", "-1"), "snapshot minutes"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments: tuple[str, ...],
    message: str,
    pictures_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [a.format(set=pictures_folder, empty=tmp_path / "empty") for a in arguments]
    assert run(monkeypatch, *filled, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "out").exists()


def test_steps_of_zero_are_refused_before_anything_is_read(
    wide_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--data", wide_pictures, "--out", tmp_path / "out", "--steps", 0)
    assert run(monkeypatch, "stage1", "fashion", *flags) == 2
    assert "steps must be at least 1, got 0" in capsys.readouterr().err


@pytest.fixture
def wide_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty 32×32 gray pictures in two folders, prepared by the command."""
    for label, level in (("low", 60), ("high", 200)):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (32, 32), level + i).save(tmp_path / "raw" / label / f"{i}.png")
    out = tmp_path / "set"
    assert run(monkeypatch, "data", "folder", tmp_path / "raw", "--out", out, "--size", 32) == 0
    return out


@pytest.mark.slow
def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    assert all(each in told for each in ("stage1", "stage2", "data", "evaluate", "bench"))
