"""A file of fastest tiles holds for one card, one Triton and one state of the kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unified_latents.kernels import dispatch
from unified_latents.kernels.fused import tiles, tuned

_CARD = "NVIDIA H100 80GB/HBM3"
_NAME = "attend 64, bfloat16"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_what_is_written_is_read_for_that_card_alone() -> None:
    choice = tiles.attend(64, torch.bfloat16)[1]
    path = tuned.write(_CARD, {_NAME: choice})
    assert path.name == "tiles-NVIDIA-H100-80GB-HBM3.json"
    assert tuned.read(_CARD) == {_NAME: choice}
    assert tuned.read("another card") == {}


@pytest.mark.parametrize("key", ["card", "triton", "kernels"])
def test_a_stale_file_is_ignored(key: str) -> None:
    path = tuned.write(_CARD, {_NAME: (64, 64, 4, 2)})
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "another"}))
    assert tuned.read(_CARD) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"choices": 3}', '{"choices": {"a": 3}}']
)
def test_a_broken_file_is_ignored(text: str) -> None:
    path = tuned.write(_CARD, {})
    written = json.loads(path.read_text())
    broken = json.dumps({**written, **json.loads(text)}) if "choices" in text else text
    path.write_text(broken)
    assert tuned.read(_CARD) == {}


def test_only_cuda_reads_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine with that card would launch, and how the service would name it."""
    choice = tiles.attend(64, torch.bfloat16)[2]
    tuned.write(_CARD, {_NAME: choice, "keys 32, float32": (512, 512, 32, 9)})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: _CARD)
    tuned.tuned.cache_clear()
    cuda, cpu = torch.device("cuda:7"), torch.device("cpu")
    try:
        assert tiles.chosen("attend", 64, torch.bfloat16, cuda) == choice
        assert tiles.chosen("attend", 64, torch.float16, cuda) == tiles.attend(64, torch.float16)[0]
        assert tiles.chosen("attend", 64, torch.bfloat16, cpu) != choice
        assert tiles.chosen("keys", 32, torch.float32, cuda) == tiles.keys(32, torch.float32)[0]
        assert dispatch.kernel_set(cuda).endswith(f", tiles {tuned.label(cuda)}")
    finally:
        tuned.tuned.cache_clear()
    assert tuned.label(cpu) == ""
