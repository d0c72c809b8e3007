from __future__ import annotations

import io

from PIL import Image

from unified_latents.service.bench.serving.tasks import (
    Picture,
    Task,
    heterogeneous,
    homogeneous,
    widths,
)
from unified_latents.service.http.schemas import GenerateRequest


def test_a_seed_makes_the_same_mixed_load() -> None:
    assert heterogeneous(50, 3) == heterogeneous(50, 3)
    assert heterogeneous(50, 3) != heterogeneous(50, 4)


def test_a_mixed_load_holds_all_that_it_says() -> None:
    tasks = heterogeneous(400, 0)
    made = [task for task in tasks if task.kind == "generate"]
    assert 0.1 < 1 - len(made) / len(tasks) < 0.3
    assert {task.n for task in made} == {1, 2, 3, 4}
    assert {task.base_steps for task in made} == {10, 20, 50, 100}
    assert {task.guidance for task in made} == {1.0, 1.5}


def test_the_rows_of_a_request_count_guidance_twice() -> None:
    assert Task("generate", 0, n=2, base_steps=10, decode_steps=5).row_steps == 30
    assert Task("generate", 0, n=2, base_steps=10, decode_steps=5, guidance=1.5).row_steps == 50
    assert Task("encode", 0).row_steps == 1


def test_every_width_is_met_once() -> None:
    assert [task.row_steps for task in widths(3)] == [2, 4, 6]


def test_the_service_takes_its_bodies() -> None:
    for task in [*homogeneous(3, 4), *heterogeneous(20, 0), *widths(32)]:
        body = GenerateRequest.model_validate(task.generation(strict=True))
        assert (body.n, body.seed, body.steps.base) == (task.n, task.seed, task.base_steps)


def test_a_picture_is_of_the_models_own_size() -> None:
    like = Picture("RGB", 8, 12)
    with Image.open(io.BytesIO(Task("encode", 5).picture(like))) as image:
        assert (image.mode, image.size) == ("RGB", (12, 8))
    assert Task("encode", 5).picture(like) != Task("encode", 6).picture(like)
