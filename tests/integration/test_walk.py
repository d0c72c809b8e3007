"""The whole way: a folder of pictures → both stages → a served model → its answers."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

LATENT = "application/vnd.ul.latent+safetensors"
SHAPES = ("bars", "rings")


def picture(shape: str, number: int) -> Image.Image:
    """A 40×36 colour picture: bars or rings, whose period and tint vary."""
    y, x = np.mgrid[0:36, 0:40].astype(np.float64)
    distance = x if shape == "bars" else np.hypot(x - 20, y - 18)
    wave = np.sin(distance * 2 * np.pi / (6 + number % 7)) > 0
    tint = np.array([255, 40 + 6 * (number % 32), 120])
    return Image.fromarray((wave[..., None] * tint).astype(np.uint8))


def train(*arguments: object) -> str:
    """`ul-train` in a process of its own; what it printed."""
    command = [sys.executable, "-P", "-m", "unified_latents.training", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 PNGs in two class folders, twenty steps of each stage."""
    home = tmp_path_factory.mktemp("walk")
    for shape in SHAPES:
        folder = home / "pictures" / shape
        folder.mkdir(parents=True)
        for number in range(32):
            picture(shape, number).save(folder / f"{shape}-{number}.png")
    train("data", "folder", home / "pictures", "--out", home / "data", "--size", 32)
    common = ("--data", home / "data", "--steps", 20, "--batch", 4)
    first, second = home / "stage1", home / "stage2"
    assert "finished after step 20" in train("stage1", "small_32", *common, "--out", first)
    flags = ("--stage1", first / "checkpoint", "--out", second)
    assert "finished after step 20" in train("stage2", "small", *common, *flags)
    return second / "checkpoint"


@pytest.fixture(scope="module")
def served(trained: Path) -> Iterator[httpx.Client]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "unified_latents.service", "up", "--model", f"mine={trained}"],
        env={**os.environ, "PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log = ""
    while not (found := re.search(r"(?s)listening on (http://\S+).*ready: torch", log)):
        line = process.stderr.readline()
        assert line, f"the server ended:\n{log}"
        log += line
    url = found.group(1)
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client
    process.send_signal(signal.SIGTERM)
    process.stderr.close()
    assert process.wait(30) == 0


def test_the_model_is_there_and_ready(served: httpx.Client) -> None:
    assert served.get("/readyz").status_code == 200
    (model,) = served.get("/models").json()["models"]
    assert (model["name"], tuple(model["labels"])) == ("mine", SHAPES)


def test_generate(served: httpx.Client) -> None:
    body = {"label": "RINGS", "n": 2, "seed": 3, "steps": {"base": 4, "decode": 4}}
    answers = [served.post("/generate", json=body).raise_for_status().json() for _ in range(2)]
    images = [base64.b64decode(item["b64"]) for item in answers[0]["data"]]
    assert [Image.open(io.BytesIO(image)).size for image in images] == [(32, 32)] * 2
    assert images[0] != images[1]
    assert answers[0]["data"] == answers[1]["data"]


def test_encode_and_decode(served: httpx.Client) -> None:
    png = io.BytesIO()
    picture("bars", 1).save(png, "PNG")
    headers = {"content-type": "image/png", "accept": LATENT}
    latent = served.post("/encode", content=png.getvalue(), headers=headers).raise_for_status()
    assert load(latent.content)["z"].shape == (1, 16, 4, 4)
    query = {"seed": 1, "steps": 4}
    headers = {"content-type": LATENT}
    decoded = served.post("/decode", params=query, content=latent.content, headers=headers)
    assert Image.open(io.BytesIO(decoded.raise_for_status().content)).size == (32, 32)


def test_the_bound_of_a_picture(served: httpx.Client) -> None:
    png = io.BytesIO()
    picture("rings", 2).save(png, "PNG")
    answer = served.post(
        "/encode",
        params={"bitrate": "true"},
        content=png.getvalue(),
        headers={"content-type": "image/png"},
    )
    rate = answer.raise_for_status().json()["bitrate"]
    assert rate["levels"] == 64
    assert rate["bits"] == pytest.approx(rate["bits_per_pixel"] * 32 * 32)
    assert 0 < rate["std_error"] < rate["nats"]
