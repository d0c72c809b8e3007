from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unified_latents.models.manifest import read_manifest
from unified_latents.training.data.card import DataError
from unified_latents.training.data.sets import load
from unified_latents.training.evaluation import classifier, study
from unified_latents.training.evaluation.classifier import Classifier, ClassifierConfig
from unified_latents.training.evaluation.evaluate import Evaluation, plan, run
from unified_latents.training.evaluation.report import attach, points, read, report

SaveTiny = Callable[[str, bool], Path]


@pytest.fixture
def evaluation(shapes: Path, save_tiny: SaveTiny, tmp_path: Path) -> Evaluation:
    made = plan(
        save_tiny("tiny", True), shapes, tmp_path / "out", images=7, generated=6, levels=3, batch=4
    )
    list(run(made))
    return made


@pytest.fixture
def judge(shapes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "judge.safetensors"
    classifier.save(path, Classifier(ClassifierConfig.of(load(shapes).card)))
    return path


def test_figures_are_those_of_the_units(evaluation: Evaluation) -> None:
    found = report(evaluation).figures
    measured = evaluation.merged("images", 7)
    assert found["nats_per_image"].value == pytest.approx(measured["nats"].mean().item())
    expected = (10 * (4 / measured["mse_content"]).log10()).mean().item()
    assert found["psnr_12x12"].value == pytest.approx(expected)
    assert found["psnr_16x16"].value != found["psnr_12x12"].value
    assert {figure.n for figure in found.values()} == {7}


def test_file_holds_every_figure_with_its_definition(evaluation: Evaluation) -> None:
    metrics = report(evaluation)
    assert read(evaluation.out / "metrics.json") == metrics
    raw = json.loads((evaluation.out / "metrics.json").read_text())
    assert raw["digest"] == evaluation.digest
    assert raw["settings"]["sampling"]["decode_steps"] == 2
    for figure in raw["figures"].values():
        assert figure.keys() == {"value", "std_error", "n", "definition"}


def test_given_judge_names_generated_pictures(evaluation: Evaluation, judge: Path) -> None:
    metrics = report(evaluation, judge)
    assert metrics.judge == "judge.safetensors"
    generated = evaluation.merged("generated", 6)
    named = classifier.load(judge)(generated["picture"].float() / 127.5 - 1).argmax(1)
    expected = (named == generated["label"]).float().mean().item()
    assert metrics.figures["agreement"].value == pytest.approx(expected)
    assert metrics.figures["agreement"].n == 6
    assert metrics.figures["accuracy_on_real"].n == 10
    assert {f"agreement_{label}" for label in ("circle", "square", "cross")} < set(metrics.figures)


def test_without_a_fitting_judge_there_is_no_agreement(evaluation: Evaluation) -> None:
    metrics = report(evaluation)
    assert metrics.judge == "none"
    assert not any("agreement" in name for name in metrics.figures)


def test_judge_of_other_labels(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    classifier.save(path, Classifier(ClassifierConfig(1, (12, 12), ("x", "y"))))
    with pytest.raises(DataError, match="knows"):
        report(evaluation, path)


def test_stage_1_alone_is_reported(shapes: Path, save_tiny: SaveTiny, tmp_path: Path) -> None:
    made = plan(save_tiny("stage1", False), shapes, tmp_path / "out", images=3, levels=3)
    list(run(made))
    report(made)
    assert (made.out / "reconstructions.png").is_file()
    assert not (made.out / "samples.png").exists()
    assert "samples.png" not in (made.out / "report.md").read_text()


def test_figures_go_into_the_manifest_and_leave_the_weights(evaluation: Evaluation) -> None:
    metrics = report(evaluation)
    attach(evaluation.checkpoint, metrics)
    manifest = read_manifest(evaluation.checkpoint)
    assert manifest.digest == evaluation.digest
    figure = manifest.card.metrics["figures"]["psnr_12x12"]
    assert figure["value"] == metrics.figures["psnr_12x12"].value


def test_figures_of_other_weights_are_refused(evaluation: Evaluation) -> None:
    metrics = replace(report(evaluation), digest="0" * 64)
    with pytest.raises(DataError, match="figures are of 0000"):
        attach(evaluation.checkpoint, metrics)


def test_report_is_the_same_twice(evaluation: Evaluation) -> None:
    names = ("metrics.json", "report.md", "reconstructions.png", "samples.png")
    report(evaluation)
    before = [(evaluation.out / name).read_bytes() for name in names]
    torch.manual_seed(1)
    report(evaluation)
    assert [(evaluation.out / name).read_bytes() for name in names] == before


def test_other_checkpoints_and_logs_become_plots(evaluation: Evaluation, tmp_path: Path) -> None:
    first = report(evaluation)
    assert first.loss_factor == 5
    assert not (evaluation.out / "learning.png").exists()
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0, "bits_per_pixel": 0.1}\n')
    other = replace(first, checkpoint="other")
    assert read(evaluation.out) == report(evaluation, compare=[other], logs=[log])
    text = (evaluation.out / "report.md").read_text()
    for name in ("levels.png", "rate-distortion.png", "learning.png"):
        assert f"({name})" in text
        assert (evaluation.out / name).is_file()


def test_a_point_has_its_errors_and_its_loss_factor(evaluation: Evaluation) -> None:
    first = report(evaluation)
    bits, psnr = (first.figures[name] for name in ("bits_per_pixel_16x16", "psnr_12x12"))
    (point,) = points([replace(first, loss_factor=1.53358)])
    assert point == (
        f"{first.checkpoint}, c_lf 1.53",
        *(bits.value, psnr.value, bits.std_error, psnr.std_error),
    )


def test_points_of_another_measure_are_refused(evaluation: Evaluation) -> None:
    first = report(evaluation)
    psnr = replace(first.figures["psnr_12x12"], definition="one 4-step draw")
    for other, message in (
        (replace(first, digest="d", test_sha256="t"), "d was measured otherwise: 't'"),
        (replace(first, digest="d", figures={**first.figures, "psnr_12x12": psnr}), "4-step"),
        (replace(first, digest="d", figures={}), "d has no figure bits_per_pixel_"),
    ):
        with pytest.raises(DataError, match=message):
            points([first, other])


def test_a_finished_study_adds_its_figures(evaluation: Evaluation, judge: Path) -> None:
    made = study.plan(evaluation, judge, classifier.ClassifierRecipe(epochs=1, batch=20))
    made = replace(made, networks=("classifier",))
    list(study.run(made))
    added = (
        report(evaluation, judge, made).figures.keys() - report(evaluation, judge).figures.keys()
    )
    assert added >= {"accuracy_trained_on_generated", "kernel_classifier_generated_train"}


def test_figures_written_before_there_were_curves_are_read(tmp_path: Path) -> None:
    """What `--compare` takes: also the reports of earlier versions."""
    old = {"checkpoint": "old", "digest": "d", "data": "set", "test_sha256": "t"}
    old |= {"settings": {"sampling": {}}, "judge": "none", "figures": {}}  # type: ignore[dict-item]
    (tmp_path / "metrics.json").write_text(json.dumps(old))
    assert read(tmp_path).curves == {}
    assert read(tmp_path).loss_factor is None
