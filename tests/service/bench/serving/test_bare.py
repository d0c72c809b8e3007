from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified_latents.service.bench.serving.bare import Bare
from unified_latents.service.bench.serving.tasks import Picture, Task

LIKE = Picture("L", 8, 8)


@pytest.fixture(scope="module")
def bare(tiny: Path) -> Bare:
    return Bare(str(tiny), 1)


def pixels(text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image).astype(np.int16)


def test_requests_in_one_call_get_what_they_get_alone(bare: Bare) -> None:
    tasks = [
        Task("generate", 5, 0, 2, 3, 2, 1.5),
        Task("generate", 6, 1, 1, 3, 2, 1.0),
        Task("encode", 7),
        Task("generate", 8, 1, 1, 3, 2, 2.5),
        Task("generate", 9, 0, 1, 2, 4, 1.0),
    ]
    bodies = [task.rival(LIKE) for task in tasks]
    together = bare(bodies)
    alone = [bare([body])[0] for body in bodies]
    assert [len(files) for files in together] == [2, 1, 1, 1, 1]
    for task, ours, theirs in zip(tasks, together, alone, strict=True):
        if task.kind == "generate":
            worst = max(abs(pixels(a) - pixels(b)).max() for a, b in zip(ours, theirs, strict=True))
            assert worst <= 1
        else:
            assert ours == theirs
