from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unified_latents.models.manifest import CheckpointError
from unified_latents.training.data.card import DataError
from unified_latents.training.errors import TrainingError
from unified_latents.training.evaluation.evaluate import Evaluation, Kind, plan, run

SaveTiny = Callable[[str, bool], Path]


@pytest.fixture
def evaluation(shapes: Path, save_tiny: SaveTiny, tmp_path: Path) -> Evaluation:
    return plan(
        save_tiny("tiny", True), shapes, tmp_path / "out", images=7, generated=5, levels=3, batch=3
    )


def test_units_cover_everything_once(evaluation: Evaluation) -> None:
    spans: dict[str, list[int]] = {"images": [], "bounds": [], "generated": []}
    for unit in evaluation.units():
        spans[unit.kind] += range(unit.start, unit.stop)
    assert spans == {
        "images": list(range(7)),
        "bounds": list(range(7)),
        "generated": list(range(5)),
    }


def test_defaults_come_from_the_manifest(evaluation: Evaluation, tmp_path: Path) -> None:
    how = evaluation.settings.sampling
    assert (how.base_steps, how.decode_steps, how.guidance) == (3, 2, 1.5)
    wished = plan(
        evaluation.checkpoint, evaluation.data, tmp_path, steps_base=9, steps_decode=8, guidance=1.0
    )
    how = wished.settings.sampling
    assert (how.base_steps, how.decode_steps, how.guidance) == (9, 8, 1)


def test_no_more_images_than_there_are(evaluation: Evaluation, tmp_path: Path) -> None:
    assert plan(evaluation.checkpoint, evaluation.data, tmp_path).images == 10


def test_a_checkpoint_without_a_base_model_generates_nothing(
    shapes: Path, save_tiny: SaveTiny, tmp_path: Path
) -> None:
    made = plan(save_tiny("stage1", False), shapes, tmp_path / "out", images=3)
    assert {unit.kind for unit in made.units()} == {"images", "bounds"}
    assert len(list(run(made))) == 2


def test_processes_share_the_work_and_agree_with_one(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """Bit for bit: units are the same batches wherever they are computed."""
    shared = replace(evaluation, out=tmp_path / "shared")
    assert list(run(evaluation)) == evaluation.units()
    assert sorted(run(shared, processes=2)) == sorted(shared.units())
    counts: dict[Kind, int] = {"images": 7, "bounds": 7, "generated": 5}
    for kind, count in counts.items():
        alone, together = evaluation.merged(kind, count), shared.merged(kind, count)
        assert alone.keys() == together.keys()
        for name, values in alone.items():
            assert len(values) == count
            assert values.equal(together[name])


def test_an_interrupted_evaluation_goes_on(evaluation: Evaluation) -> None:
    first = run(evaluation)
    done = [next(first), next(first)]
    first.close()
    rest = list(run(evaluation))
    assert done + rest == evaluation.units()
    assert list(run(evaluation)) == []


def test_a_longer_evaluation_takes_over_what_was_measured(evaluation: Evaluation) -> None:
    list(run(evaluation))
    longer = replace(evaluation, images=10)
    assert [unit.start for unit in run(longer)] == [6, 9, 6, 9]
    merged = longer.merged("images", 10)["nats"]
    assert merged[:6].equal(evaluation.merged("images", 7)["nats"][:6])


def test_other_settings_share_no_parts(evaluation: Evaluation) -> None:
    other = replace(evaluation, settings=replace(evaluation.settings, seed=1))
    assert other.part(other.units()[0]) != evaluation.part(evaluation.units()[0])
    list(run(evaluation))
    list(run(other))
    assert not torch.equal(
        other.merged("images", 7)["nats"], evaluation.merged("images", 7)["nats"]
    )


def test_labels_take_turns(evaluation: Evaluation) -> None:
    list(run(evaluation))
    assert evaluation.merged("generated", 5)["label"].tolist() == [0, 1, 2, 0, 1]


def test_a_checkpoint_that_changes_meanwhile(evaluation: Evaluation) -> None:
    with pytest.raises(DataError, match="changed while"):
        list(run(replace(evaluation, digest="0" * 64)))


@pytest.mark.parametrize(
    "wish",
    [{"images": 0}, {"generated": -1}, {"batch": 0}, {"levels": 0}, {"steps_decode": 0}],
)
def test_wishes_out_of_range(evaluation: Evaluation, tmp_path: Path, wish: dict[str, int]) -> None:
    with pytest.raises(TrainingError):
        plan(evaluation.checkpoint, evaluation.data, tmp_path, **wish)  # type: ignore[arg-type]


def test_what_is_not_there(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        plan(tmp_path / "nowhere", evaluation.data, tmp_path)
    with pytest.raises(DataError, match="card"):
        plan(evaluation.checkpoint, tmp_path / "nowhere", tmp_path)


def test_pictures_of_another_size(
    evaluation: Evaluation, tmp_path: Path, save_tiny: SaveTiny
) -> None:
    import numpy as np
    from PIL import Image

    from unified_latents.training.data.sets import prepare_folder

    (tmp_path / "other").mkdir()
    for k in range(2):
        pixels = np.full((8, 8), 50 * k, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "other" / f"{k}.png")
    prepare_folder(tmp_path / "other", tmp_path / "set", 8)
    made = plan(evaluation.checkpoint, tmp_path / "set", tmp_path / "out")
    with pytest.raises(DataError, match=r"pictures of \(1, 8, 8\), tiny takes \(1, 16, 16\)"):
        list(run(made))


def test_compiling_is_asked_of_what_is_sampled(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And changes no part's name: a compiled network rounds otherwise, no more."""
    asked: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: asked.append(type(self).__name__))
    compiled = replace(evaluation, compiled=True)
    list(run(compiled))
    assert asked == ["Decoder", "BaseModel"]
    assert list(run(evaluation)) == []
