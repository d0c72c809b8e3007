from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from unified_latents import models
from unified_latents.models.manifest import read_manifest
from unified_latents.training import __main__ as commands
from unified_latents.training.evaluation import report

SaveTiny = Callable[[str, bool], Path]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object, command: str = "evaluate") -> int:
    """`ul-train evaluate …`, or another command, in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["ul-train", command, *map(str, arguments)])
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


def test_a_curve_is_drawn_from_reports_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = Path(str(files(models))) / "pretrained" / "fashion" / "report"
    rest = sorted((shipped / "targets").iterdir())
    out = tmp_path / "curve.png"
    assert run(monkeypatch, shipped, *rest, "--out", out, command="curve") == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 + len(rest)
    assert told[0].startswith("fashion, c_lf 8: 0.1270 ± 0.0004 bits a pixel, 21.63 ± 0.03 dB")
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"


def test_a_curve_of_no_report_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curve.png"
    assert run(monkeypatch, tmp_path / "absent", "--out", out, command="curve") == 2
    assert "no such file" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("target", ["0.05", "0.08", "0.10", "0.14"])
def test_recorded_runs_ended_within_5_percent_of_their_target(target: str) -> None:
    recorded = Path(str(files(models))) / "pretrained" / "fashion" / "report" / "targets"
    figures = report.read(recorded / f"{target}.json").figures
    assert figures["bits_per_pixel_32x32"].value == pytest.approx(float(target), rel=0.05)
