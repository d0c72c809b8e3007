from __future__ import annotations

from pathlib import Path

from unified_latents.training import snapshot


def _take(folder: Path, step: int) -> None:
    partial = snapshot.partial_folder(folder, step)
    partial.mkdir(parents=True)
    (partial / "weights").write_text(str(step))
    snapshot.commit(partial, snapshot.snapshot_folder(folder, step))


def test_a_snapshot_appears_whole_and_knows_its_step(tmp_path: Path) -> None:
    _take(tmp_path, 12)
    [found] = snapshot.snapshots(tmp_path)
    assert snapshot.step_of(found) == 12
    assert (found / "weights").read_text() == "12"


def test_snapshots_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        _take(tmp_path, step)
    assert [snapshot.step_of(each) for each in snapshot.snapshots(tmp_path)] == [9, 20, 100]


def test_an_unfinished_snapshot_does_not_count(tmp_path: Path) -> None:
    _take(tmp_path, 3)
    unfinished = snapshot.partial_folder(tmp_path, 4)
    unfinished.mkdir()
    (unfinished / "weights").write_text("half")
    assert [snapshot.step_of(each) for each in snapshot.snapshots(tmp_path)] == [3]


def test_two_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _take(tmp_path, step)
    snapshot.partial_folder(tmp_path, 4).mkdir()
    snapshot.prune(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]


def test_a_folder_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert snapshot.snapshots(tmp_path / "absent") == []
