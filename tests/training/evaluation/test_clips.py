"""An evaluation of clips end to end: untrained networks, and frames seen by a cheap one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.training.clips import FEW, tiny_clips, tiny_clips_base
from unified_latents.models import checkpoint, manifest
from unified_latents.models.base import BaseModel
from unified_latents.models.manifest import Card, DataSource, Preprocessing
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.data.card import DataError
from unified_latents.training.data.sets import load
from unified_latents.training.evaluation import clip_page, clips
from unified_latents.training.evaluation.clips import Films
from unified_latents.training.evaluation.command import evaluate


def cheap(pixels: Tensor) -> Tensor:
    """Eight places of a frame as its features."""
    return pixels[:, 0, 3, ::2].float()


@pytest.fixture(autouse=True)
def _cheap_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("unified_latents.training.evaluation.efficientnet.load", lambda: cheap)
    yield
    clips._bench.cache_clear()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    unified, base = UnifiedLatents(tiny_clips()), BaseModel(tiny_clips_base())
    with torch.no_grad():
        for parameter in (*unified.parameters(), *base.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    about = (Preprocessing("L", "pad", 0), DataSource("dawn", "a test", "CC0"), "CC0", FEW)
    checkpoint.save(tmp_path / "model", unified, base, Card("dawn", ("dawn",), *about))
    return tmp_path / "model"


@pytest.fixture
def films(saved: Path, clips_folder: Path, tmp_path: Path) -> Films:
    return clips.plan(saved, clips_folder, tmp_path / "report", 5)


def test_a_report_of_every_figure(films: Films) -> None:
    assert len(list(clips.run(films))) == 3
    metrics = clip_page.report(films)
    found = metrics.figures
    assert {"bits_per_pixel_4x16x16", "psnr_4x16x16", "psnr_next_2_copy_last"} <= found.keys()
    assert found["video_distance_again"].value > found["video_distance_real"].value >= 0
    assert found["seeds_apart"].value > 1
    assert manifest.read(films.out / "metrics.json", type(metrics)) == metrics
    with Image.open(films.out / "clips.gif") as film:
        assert (film.n_frames, film.size) == (4, (2 * 5 * 18, 2 * 4 * 18))  # type: ignore[attr-defined]
    text = (films.out / "report.md").read_text("utf-8")
    assert f"{found['psnr_next_2'].value:.2f}" in text


def test_what_is_measured_is_of_the_clips_themselves(films: Films, clips_folder: Path) -> None:
    """Each frame of the set is 40 levels brighter than the last."""
    list(clips.run(films))
    found = films.merged("clips")
    assert torch.equal(found["clip"], load(clips_folder).test.batch(range(5)).image)
    for name in ("first", "second"):
        assert torch.equal(found[name][:, :, :1], found["clip"][:, :, :1])
    prediction = clip_page.prediction(found, known=1)
    error = prediction["mse_next_2_copy_last"]
    assert error.value == pytest.approx(((40 / 127.5) ** 2 + (80 / 127.5) ** 2) / 2)
    assert error.n == 5


def test_an_interrupted_evaluation_goes_on(films: Films) -> None:
    first = next(clips.run(films))
    before = films.part(first).stat().st_mtime_ns
    list(clips.run(films))
    assert films.part(first).stat().st_mtime_ns == before


def test_a_clip_has_its_sample_whatever_its_batch(
    films: Films, saved: Path, clips_folder: Path, tmp_path: Path
) -> None:
    list(clips.run(films))
    few = Films(**(vars(films) | {"out": tmp_path / "few", "batch": 2}))
    list(clips.run(few))
    a, b = films.merged("clips"), few.merged("clips")
    assert (a["first"].int() - b["first"].int()).abs().max() <= 1


def test_a_still_clip_holds_its_last_known_frame() -> None:
    clip = torch.randint(256, (2, 1, 5, 3, 3), dtype=torch.uint8)
    still = clips.copied(clip, 2)
    assert torch.equal(still[:, :, :2], clip[:, :, :2])
    assert all(torch.equal(still[:, :, t], clip[:, :, 1]) for t in (2, 3, 4))


def test_the_command_attaches_its_figures(
    saved: Path, clips_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(str(saved), clips_folder, tmp_path / "out", images=3, attach=True)
    assert "psnr_next_2" in capsys.readouterr().out
    figures = manifest.read_manifest(saved).card.metrics["figures"]
    assert figures["psnr_next_2"]["n"] == 3


def test_a_single_clip_is_refused(saved: Path, clips_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two clips"):
        clips.plan(saved, clips_folder, tmp_path / "out", 1)
