from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.training.conftest import interrupt_at_look
from unified_latents.models import checkpoint
from unified_latents.models.manifest import Manifest
from unified_latents.training import runner, snapshot
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.recipes import Stage1Recipe, Stage2Recipe
from unified_latents.training.runner import Options
from unified_latents.training.stage1 import Stage1
from unified_latents.training.stage2 import Stage2

CHILD = """
import sys
from pathlib import Path
import msgspec
from unified_latents.training import runner
from unified_latents.training.data.sets import load
from unified_latents.training.recipes import Stage1Recipe
from unified_latents.training.stage1 import Stage1

recipe = msgspec.json.decode(sys.argv[1], type=Stage1Recipe)
stage = Stage1.build(recipe, load(Path(sys.argv[2])))
runner.run(stage, recipe.training, runner.Options(Path(sys.argv[3]), snapshot_minutes=0))
"""


@pytest.fixture
def recipe(stage1: Stage1Recipe) -> Stage1Recipe:
    """With dropout, so that its randomness has to repeat too."""
    transformer = replace(stage1.model.decoder.transformer, dropout=0.1)
    decoder = replace(stage1.model.decoder, transformer=transformer)
    training = replace(stage1.training, steps=12, log_every=2, grid_every=12)
    return replace(stage1, model=replace(stage1.model, decoder=decoder), training=training)


def train(recipe: Stage1Recipe, data: DataSet, out: Path, minutes: float = 10.0) -> int:
    return runner.run(Stage1.build(recipe, data), recipe.training, Options(out, minutes))


def figures(out: Path) -> list[dict[str, Any]]:
    """The log, without what the clock said."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "clock"} for line in lines]


def final(out: Path) -> Manifest:
    """What the final checkpoint says of itself: the SHA-256 of every file, and its figures."""
    return checkpoint.load(out / "checkpoint").manifest


def start_and_signal(
    recipe: Stage1Recipe, data: Path, out: Path, after: int, what: signal.Signals
) -> int:
    """Run in a process of its own, and signal it when it has told of step `after`."""
    arguments = [msgspec.json.encode(recipe).decode(), str(data), str(out)]
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, *arguments], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    told = []
    for line in child.stderr:
        told.append(line)
        if f" {after}/{recipe.training.steps} " in line:
            child.send_signal(what)
            break
    child.stderr.read()
    child.stderr.close()
    assert len(told) > 0
    return child.wait()


@pytest.mark.slow
def test_interrupted_is_uninterrupted(
    recipe: Stage1Recipe, pictures: DataSet, pictures_folder: Path, tmp_path: Path
) -> None:
    """Asked to stop, then killed, then finished: every byte as if nothing had happened."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(recipe, pictures, whole) == 12
    stopped = start_and_signal(recipe, pictures_folder, broken, 4, signal.SIGTERM)
    assert stopped == 0
    done = snapshot.step_of(snapshot.snapshots(broken / "state")[-1])
    assert 4 <= done < 12
    killed = start_and_signal(recipe, pictures_folder, broken, 8, signal.SIGKILL)
    assert killed == -signal.SIGKILL
    assert 7 <= snapshot.step_of(snapshot.snapshots(broken / "state")[-1]) < 12
    assert train(recipe, pictures, broken) == 12
    assert figures(broken) == figures(whole)
    assert final(broken) == final(whole)


def test_a_run_leaves_what_it_promises(
    recipe: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    recipe = replace(recipe, training=replace(recipe.training, grid_every=6))
    assert train(recipe, pictures, tmp_path, minutes=0) == 12
    assert [line["step"] for line in figures(tmp_path)] == [2, 4, 6, 8, 10, 12]
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"recipe.json", "state", "log.jsonl", "tensorboard", "grids", "checkpoint"}
    assert [each.name for each in sorted((tmp_path / "grids").iterdir())] == [
        f"step-{step:09d}.png" for step in (6, 12)
    ]
    assert [snapshot.step_of(each) for each in snapshot.snapshots(tmp_path / "state")] == [11, 12]
    metrics = checkpoint.load(tmp_path / "checkpoint").card.metrics["stage_1"]
    assert metrics["step"] == 12
    assert metrics["test_bits_per_pixel"] > 0


def test_a_finished_run_only_says_so(
    recipe: Stage1Recipe,
    pictures: DataSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = replace(recipe, training=replace(recipe.training, steps=2))
    train(short, pictures, tmp_path)
    checkpoint.annotate(tmp_path / "checkpoint", metrics={"measured": 1})
    before = (tmp_path / "log.jsonl").read_bytes(), final(tmp_path)
    capsys.readouterr()
    assert train(short, pictures, tmp_path) == 2
    assert "already finished" in capsys.readouterr().err
    assert ((tmp_path / "log.jsonl").read_bytes(), final(tmp_path)) == before


def test_another_recipe_in_the_folder_is_refused_by_name(
    recipe: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    runner.claim(tmp_path, Stage1.build(recipe, pictures).describe())
    other = replace(recipe, training=replace(recipe.training, seed=8))
    with pytest.raises(TrainingError, match=r"recipe\.training\.seed: 7 there, 8 here"):
        train(other, pictures, tmp_path)
    assert not (tmp_path / "state").exists()


def test_a_field_of_another_version_is_not_a_difference(tmp_path: Path) -> None:
    runner.claim(tmp_path, {"recipe": {"steps": 3, "gone": 1}})
    runner.claim(tmp_path, {"recipe": {"steps": 3, "new": 2}})
    with pytest.raises(TrainingError, match=r"recipe\.steps: 3 there, 4 here"):
        runner.claim(tmp_path, {"recipe": {"steps": 4}})


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_snapshot(
    recipe: Stage1Recipe, pictures: DataSet, tmp_path: Path
) -> None:
    stage = Stage1.build(recipe, pictures)
    with torch.no_grad():
        stage.objective.model.prior.input.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="stopped being finite before step 2"):
        runner.run(stage, recipe.training, Options(tmp_path))
    assert snapshot.snapshots(tmp_path / "state") == []


@pytest.mark.parametrize("minutes", [-1.0, float("nan")])
def test_snapshots_cannot_be_in_the_past(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="snapshot minutes"):
        Options(tmp_path, minutes)


def test_stage_2_resumes_too(
    stage1: Stage1Recipe,
    stage2: Stage2Recipe,
    pictures: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Stage1.build(stage1, pictures)
    one.save(one.objective, tmp_path / "one", {})
    start = checkpoint.load(tmp_path / "one")

    def train_base(out: Path) -> int:
        return runner.run(Stage2.build(stage2, pictures, start, out), stage2.training, Options(out))

    assert train_base(tmp_path / "whole") == 10
    with monkeypatch.context() as patch:
        interrupt_at_look(patch, Stage2)
        assert train_base(tmp_path / "broken") == 6
    assert train_base(tmp_path / "broken") == 10
    assert figures(tmp_path / "broken") == figures(tmp_path / "whole")
    assert final(tmp_path / "broken") == final(tmp_path / "whole")
