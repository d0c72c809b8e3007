from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unified_latents.models.manifest import read_manifest
from unified_latents.training import __main__ as commands
from unified_latents.training.evaluation import report

SaveTiny = Callable[[str, bool], Path]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """`ul-train evaluate …` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["ul-train", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def test_brief_evaluation_prints_what_it_writes_and_attaches(
    shapes: Path,
    save_tiny: SaveTiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, out = save_tiny("tiny", True), tmp_path / "out"
    options = ("--data", shapes, "--out", out, "--images", 4, "--generated", 5, "--guidance", 2)
    assert run(monkeypatch, checkpoint, *options, "--brief", "--attach") == 0
    metrics = report.read(out)
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == list(metrics.figures)
    assert metrics.settings.sampling.guidance == 2
    assert "base_over_prior" in metrics.figures
    assert not any("trained_on" in name or "kernel" in name for name in metrics.figures)
    kept = read_manifest(checkpoint).card.metrics["figures"]
    assert kept.keys() == metrics.figures.keys()


@pytest.mark.parametrize(
    ("option", "message"), [("--compare", "no such file"), ("--log", "no run's log")]
)
def test_a_plot_that_cannot_be_drawn_shows_before_the_work(
    option: str,
    message: str,
    shapes: Path,
    save_tiny: SaveTiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--data", shapes, "--out", tmp_path / "out", option, tmp_path / "absent")
    assert run(monkeypatch, save_tiny("tiny", True), *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
