from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unified_latents.models.pixels import to_unit
from unified_latents.training.data.card import DataError
from unified_latents.training.data.sets import load
from unified_latents.training.evaluation import classifier, efficientnet, evaluate, study
from unified_latents.training.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    ClassifierRecipe,
)
from unified_latents.training.evaluation.evaluate import Evaluation
from unified_latents.training.evaluation.study import LESSONS, Study

SaveTiny = Callable[[str, bool], Path]
RECIPE = ClassifierRecipe(epochs=2, batch=20)


@pytest.fixture
def evaluation(shapes: Path, save_tiny: SaveTiny, tmp_path: Path) -> Evaluation:
    made = evaluate.plan(
        save_tiny("tiny", True), shapes, tmp_path / "out", images=5, generated=7, levels=1, batch=4
    )
    list(evaluate.run(made))
    return made


@pytest.fixture
def judge(shapes: Path, tmp_path: Path) -> Path:
    path = tmp_path / "judge.safetensors"
    torch.manual_seed(0)
    classifier.save(path, Classifier(ClassifierConfig.of(load(shapes).card)))
    return path


def judged_only(evaluation: Evaluation, judge: Path) -> Study:
    """Without the large network, for speed."""
    return replace(study.plan(evaluation, judge, RECIPE), networks=("classifier",))


def test_features_are_the_judges_of_each_source(evaluation: Evaluation, judge: Path) -> None:
    made = replace(judged_only(evaluation, judge), lessons=())
    list(study.run(made))
    network, data = classifier.load(judge), load(evaluation.data)
    pictures = {
        "train": data.train.batch(range(300)).image,
        "test": data.test.batch(range(10)).image,
        "reconstructions": evaluation.merged("images", 5)["picture"],
        "generated": evaluation.merged("generated", 7)["picture"],
    }
    for source, image in pictures.items():
        with torch.no_grad():
            expected = network.features(to_unit(image))
        found = made.features("classifier", source)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_lessons_teach_what_they_show(evaluation: Evaluation, judge: Path) -> None:
    """Real shapes teach the test; what an untrained model draws, as good as nothing."""
    made = replace(judged_only(evaluation, judge), recipe=replace(RECIPE, epochs=4))
    list(study.run(made))
    right = {lesson: made.hits(lesson).double().mean().item() for lesson in LESSONS}
    assert all(made.hits(lesson).shape == (10,) for lesson in LESSONS)
    assert right["real"] >= 0.9
    assert right["generated"] <= 0.7


def test_a_second_run_finds_everything_done_and_processes_agree(
    evaluation: Evaluation, judge: Path
) -> None:
    made = judged_only(evaluation, judge)
    first = study.run(made)
    done = [next(first)]
    first.close()
    assert study.todo(made) == made.tasks()[1:]
    assert sorted([*done, *study.run(made, processes=2)]) == sorted(made.tasks())
    assert study.todo(made) == []
    hits, features = made.hits("generated"), made.features("classifier", "train")
    for task in made.tasks():
        made.part(task).unlink()
    list(study.run(made))
    assert made.hits("generated").equal(hits)
    assert made.features("classifier", "train").equal(features)


def test_real_pictures_outlive_a_checkpoint(evaluation: Evaluation, judge: Path) -> None:
    made = judged_only(evaluation, judge)
    other = replace(made, evaluation=replace(evaluation, digest="0" * 64))
    kept = {task.source for task in made.tasks() if made.part(task) == other.part(task)}
    assert kept == {"train", "test", "reconstructions", "real", "fewer_real", "gaussian"}
    reseeded = replace(made, recipe=replace(RECIPE, seed=1))
    same = {task.kind for task in made.tasks() if made.part(task) == reseeded.part(task)}
    assert same == {"features"}
    paths = {made.part(task) for task in made.tasks()}
    assert len(paths) == len(made.tasks())


def test_fewer_real_pictures_are_as_many_as_were_generated(
    evaluation: Evaluation, judge: Path
) -> None:
    made = judged_only(evaluation, judge)
    assert {lesson: made.count(lesson) for lesson in LESSONS} == {
        "real": 300,
        "generated": 7,
        "fewer_real": 7,
        "gaussian": 7,
    }
    more = replace(made, evaluation=replace(evaluation, generated=1000))
    assert more.count("fewer_real") == 300


def test_tasks_without_a_fitting_judge_or_a_base_model(
    evaluation: Evaluation, shapes: Path, save_tiny: SaveTiny, tmp_path: Path
) -> None:
    assert study.plan(evaluation).networks == ("efficientnet_lite0",)
    alone = evaluate.plan(save_tiny("alone", False), shapes, tmp_path / "alone", images=3)
    made = study.plan(alone)
    assert made.lessons == ()
    assert {task.source for task in made.tasks()} == {"train", "test", "reconstructions"}


def test_judge_of_other_labels(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    classifier.save(path, Classifier(ClassifierConfig(1, (12, 12), ("x", "y"))))
    with pytest.raises(DataError, match="knows"):
        study.plan(evaluation, path)


def test_large_network_is_asked_too(evaluation: Evaluation) -> None:
    made = replace(study.plan(evaluation), lessons=())
    list(study.run(made))
    with torch.no_grad():
        expected = efficientnet.load()(evaluation.merged("generated", 7)["picture"])
    found = made.features("efficientnet_lite0", "generated")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert made.features("efficientnet_lite0", "train").shape == (300, 1280)
