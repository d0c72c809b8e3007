"""Receipts of a real engine, run again by it: alone what was made among others."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

LATENT = "application/vnd.ul.latent+safetensors"


def test_every_receipt_of_a_mix_gives_its_bytes_again(live: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.linear_gradient("L").resize((40, 20)).save(file)
    requests = [
        {"model": "tiny", "label": i % 3, "seed": i, "n": 1 + i % 2, "steps": {"base": 3 + i}}
        for i in range(4)
    ]

    def ask(request: dict[str, Any]) -> Any:
        return httpx.post(f"{live.url}/generate", json=request, timeout=120).json()

    with ThreadPoolExecutor(4) as pool:
        made = [item for body in pool.map(ask, requests) for item in body["data"]]
    for item in made:
        _again(live, item["receipt"], item["b64"])
    encoded = live.http.post(
        "/encode?model=tiny&mode=noised&seed=3",
        content=file.read_bytes(),
        headers={"content-type": "image/png"},
    ).json()
    _again(live, encoded["receipt"], encoded["latent"], file.read_bytes())
    latent = base64.b64decode(encoded["latent"])
    headers = {"content-type": LATENT, "accept": "application/json"}
    decoded = live.http.post("/decode?model=tiny&seed=3", content=latent, headers=headers).json()
    _again(live, decoded["data"][0]["receipt"], decoded["data"][0]["b64"], latent)


def _again(live: Any, receipt: dict[str, Any], b64: str, source: bytes | None = None) -> None:
    request: dict[str, Any] = {"receipt": receipt}
    if source is not None:
        request["input"] = base64.b64encode(source).decode()
    answer = live.http.post("/replay", json=request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["match"]
    assert answer.json()["b64"] == b64
    assert answer.json()["receipt"] == receipt


ELSE: dict[str, Any] = {
    "operation": "decode",
    "digest": "0" * 64,
    "kernel_set": "other",
    "numerics": "other",
    "codec": "other",
    "format": "webp",
    "sampler": {"base": "ddim", "decode": "ddim"},
    "steps": {"base": 3, "decode": 3},
    "seed": 77,
    "sample": 1,
    "n": 2,
    "guidance": 3.25,
    "guidance_interval": [-1.0, 1.0],
    "label": 1,
    "kind": "z_0",
    "fit": "crop",
    "input_sha256": "1" * 64,
    "strict": False,
    "sha256": "2" * 64,
}


@pytest.mark.parametrize("field", ELSE)
def test_no_field_of_a_receipt_is_without_meaning(live: Any, field: str) -> None:
    """But the model's name, which a server chooses: its digest says which one it is."""
    asked = {"model": "tiny", "label": 0, "seed": 5, "guidance": 2.0}
    receipt = live.http.post("/generate", json=asked).json()["data"][0]["receipt"]
    assert set(ELSE) == set(receipt) - {"model"}
    assert receipt[field] != ELSE[field]
    answer = live.http.post("/replay", json={"receipt": {**receipt, field: ELSE[field]}})
    assert answer.status_code in (409, 422), answer.text
