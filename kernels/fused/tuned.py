"""Which tiles were fastest on a card: a file in the user's cache, written by `ul-kernels tune`.

Read at a process's first launch on CUDA. It holds for one card, one Triton and one state of the
kernels; one that is missing, stale or broken changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from unified_latents.kernels.fused.source import digest


def place(card: str) -> Path:
    """The file of a card, in the user's cache: $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "unified-latents" / f"tiles-{card.replace(' ', '-').replace('/', '-')}.json"


def _facts(card: str) -> dict[str, str]:
    return {"card": card, "triton": version("triton"), "kernels": digest()}


def write(card: str, choices: Mapping[str, tuple[int, ...]]) -> Path:
    """Keep what was fastest; the path."""
    path = place(card)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**_facts(card), "choices": choices}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read(card: str) -> dict[str, tuple[int, ...]]:
    """What was fastest on this card; nothing where the file is missing, stale or broken."""
    try:
        found = json.loads(place(card).read_text(encoding="utf-8"))
        if {key: found[key] for key in _facts(card)} != _facts(card):
            return {}
        return {key: tuple(value) for key, value in found["choices"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


@cache
def tuned(device: torch.device) -> Mapping[str, tuple[int, ...]]:
    """The file's choices for a device, read once; none on the CPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return {}
    return read(torch.cuda.get_device_name(device))


def label(device: torch.device) -> str:
    """Eight hexadecimal digits of the tuned choices: bytes depend on them; empty without any."""
    choices = tuned(device)
    if not choices:
        return ""
    return hashlib.sha256(json.dumps(sorted(choices.items())).encode()).hexdigest()[:8]
