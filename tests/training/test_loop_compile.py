"""A compiled step is the step; and an interrupted compiled run is an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from unified_latents.models import checkpoint
from unified_latents.models.config import EncoderConfig
from unified_latents.training import runner
from unified_latents.training.data.sets import DataSet
from unified_latents.training.recipes import Optimiser, Stage1Recipe
from unified_latents.training.stage1 import Stage1

# A process of its own: the shape checks of the tests are not for a compiler's eyes.
COMPILED = """
import signal
import sys
from pathlib import Path
import msgspec
from torch._dynamo.utils import counters
from unified_latents.training import runner
from unified_latents.training.data.sets import load
from unified_latents.training.recipes import Stage1Recipe
from unified_latents.training.stage1 import Stage1

recipe, data, out = msgspec.json.decode(sys.argv[1], type=Stage1Recipe), sys.argv[2], sys.argv[3]

class Stopped(Stage1):
    def held_out(self, average):
        signal.raise_signal(signal.SIGINT)
        return super().held_out(average)

def train(kind, name):
    stage = kind.build(recipe, load(Path(data)))
    return runner.run(stage, recipe.training, runner.Options(Path(out) / name))

assert train(Stage1, "whole") == 6
assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
assert train(Stopped, "broken") == 4
assert train(Stage1, "broken") == 6
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_run_resumes_exactly_and_is_near_the_eager_one(
    stage1: Stage1Recipe, pictures: DataSet, pictures_folder: Path, tmp_path: Path
) -> None:
    training = replace(
        stage1.training, steps=6, log_every=2, grid_every=4, optimiser=Optimiser(warmup=0)
    )
    # The smallest: a compiler takes a second for each of its loops.
    model = replace(stage1.model, encoder=EncoderConfig((8,), (1,), (4, 4), ()))
    recipe = replace(stage1, model=model, training=replace(training, compile=True))
    arguments = (msgspec.json.encode(recipe).decode(), str(pictures_folder), str(tmp_path))
    child = subprocess.run(
        [sys.executable, "-P", "-c", COMPILED, *arguments],
        env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4000:]
    whole, broken = (tmp_path / name for name in ("whole", "broken"))
    assert losses(broken) == losses(whole)
    assert manifest_files(broken) == manifest_files(whole)
    eager = replace(recipe, training=training)
    runner.run(Stage1.build(eager, pictures), training, runner.Options(tmp_path / "eager"))
    assert losses(whole) == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def manifest_files(out: Path) -> dict[str, str]:
    return dict(checkpoint.load(out / "checkpoint").manifest.files)
