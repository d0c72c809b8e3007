"""Hot swap of a model, around an engine in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]
RELOAD = "/admin/models/fake/reload"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two checkpoints of the model's own space and one of another, as far as HTTP reads them."""
    folder = tmp_path / "root"
    spaces = {"a": fake_card().latent_space, "b": fake_card().latent_space, "c": "another"}
    for name, space in spaces.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps({"latent_space": space}))
    (tmp_path / "outside").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    return folder


@pytest.fixture
def swapping(fake: FakeEngine, root: Path) -> Iterator[TestClient]:
    settings = Settings(
        models={"fake": str(root / "a"), "plain": str(root / "a")}, models_root=root
    )
    with TestClient(create_app(settings, fake, Metrics()), base_url="http://localhost") as client:
        yield client


def test_another_checkpoint_takes_the_name(swapping: TestClient, ok: Ok) -> None:
    before = ok(swapping.get("/models"))["models"][0]["digest"]
    swapped = ok(swapping.post(RELOAD, json={"path": "b"}))
    assert swapped["name"] == "fake"
    assert swapped["digest"] != before
    made = ok(swapping.post("/generate", json={"label": 0, "model": "fake"}))
    assert made["data"][0]["receipt"]["digest"] == swapped["digest"]
    again = ok(swapping.post(RELOAD, json={}))
    assert again["digest"] not in (before, swapped["digest"])


def test_another_latent_space_must_be_asked_for(
    swapping: TestClient, ok: Ok, check_problem: CheckProblem
) -> None:
    refused = swapping.post(RELOAD, json={"path": "c"})
    assert check_problem(refused, 409)["code"] == "latent_space_mismatch"
    assert ok(swapping.post(RELOAD, json={"path": "c", "allow_new_space": True}))


@pytest.mark.parametrize(
    "path", ["nowhere", "..", "../outside", "link", "/etc", "a/manifest.json", "a\x00", "x" * 900]
)
def test_only_folders_below_the_root(
    swapping: TestClient, check_problem: CheckProblem, path: str
) -> None:
    check_problem(swapping.post(RELOAD, json={"path": path}), 422, "path")


def test_a_bad_checkpoint_changes_nothing(
    swapping: TestClient, fake: FakeEngine, ok: Ok, check_problem: CheckProblem
) -> None:
    before = ok(swapping.get("/models"))
    fake.damage = "b: base.safetensors is damaged"
    refused = swapping.post(RELOAD, json={"path": "b"})
    assert check_problem(refused, 409)["code"] == "load_failed"
    assert "base.safetensors" in refused.json()["detail"]
    assert ok(swapping.get("/models")) == before


def test_without_a_root_only_the_first_folder(
    client: TestClient, check_problem: CheckProblem
) -> None:
    check_problem(client.post(RELOAD, json={"path": "a"}), 422, "path")
    check_problem(client.post("/admin/models/nobody/reload", json={}), 404, "model")
