from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from unified_latents.service.bench import against
from unified_latents.service.bench.against import (
    ROOT,
    UnknownCommitError,
    Work,
    interval,
    require_own,
    variables,
    verdict,
    worktree,
)


def checkout(folder: Path) -> Path:
    """A repository of one commit, whose file has changed since."""
    folder.mkdir(exist_ok=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    (folder / "file").write_text("before")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "one")):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    (folder / "file").write_text("after")
    return folder


def test_the_interval_is_the_bootstrap_s() -> None:
    ratios = np.random.default_rng(1).normal(1.1, 0.05, 25).tolist()
    want = stats.bootstrap((ratios,), np.median, method="percentile", rng=2).confidence_interval
    assert interval(ratios) == pytest.approx((want.low, want.high), abs=5e-3)
    assert interval([1.2, 1.2, 1.2]) == pytest.approx((1.2, 1.2))


@pytest.mark.parametrize(
    ("ratios", "want"),
    [
        ([1.02, 1.02, 1.03, 1.03, 1.02], "not slower"),
        ([0.5, 0.9, 1.1, 1.2, 1.5], "not slower"),
        ([1.05, 1.06, 1.05, 1.04, 1.06], "SLOWER"),
        ([0.8, 0.8, 0.8, 0.8], "not slower"),
    ],
)
def test_slower_is_above_the_limit_with_all_of_the_interval(ratios: list[float], want: str) -> None:
    assert verdict(ratios) == want


def test_a_worktree_holds_the_commit_and_leaves_nothing(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repository")
    with worktree(root, "HEAD") as tree:
        assert (tree / "file").read_text() == "before"
    assert not tree.exists()
    assert (root / "file").read_text() == "after"
    listed = subprocess.run(
        ["git", "-C", str(root), "worktree", "list"], check=True, capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_a_commit_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = checkout(tmp_path / "repository")
    with pytest.raises(UnknownCommitError, match="no nowhere at"), worktree(root, "nowhere"):
        pass
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(UnknownCommitError, match="not a git repository"), worktree(outside, "HEAD"):
        pass


def test_each_tree_runs_its_own_code(tmp_path: Path) -> None:
    require_own(ROOT, variables(ROOT, 1))
    with pytest.raises(RuntimeError, match="would run, not the code of"):
        require_own(tmp_path, variables(tmp_path, 1))


@pytest.mark.slow
def test_a_tree_is_measured_against_its_own_commit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing at its smallest, on a repository made of this tree."""
    root = tmp_path / "repository"
    skipped = shutil.ignore_patterns("pretrained", "__pycache__")
    for name in (".import", "kernels", "models", "training", "service"):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=skipped)
    monkeypatch.setattr(against, "ROOT", checkout(root))
    monkeypatch.setattr(against, "WORK", (Work(2, strict=True),))
    *_, line = against.run("HEAD", str(tiny), rounds=2, steps=1, threads=1).splitlines()
    assert line.startswith("2 images, strict")
    assert line.count("×") == 2
    assert line.endswith(("not slower", "SLOWER"))
