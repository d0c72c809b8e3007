"""The requests of a load, made from a seed so that every contender gets the same."""

from __future__ import annotations

import base64
import io
import random
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from PIL import Image

Kind = Literal["generate", "encode"]
GUIDANCE = 1.5
_ENCODES = 0.2
_GUIDED = 0.5
_STEPS = (10, 20, 50, 100)


class Picture(NamedTuple):
    """The pictures that the model reads."""

    mode: Literal["L", "RGB"]
    height: int
    width: int


@dataclass(frozen=True)
class Task:
    """One request. Guidance 1 means none; an encode uses only the seed, for its picture."""

    kind: Kind
    seed: int
    label: int = 0
    n: int = 1
    base_steps: int = 1
    decode_steps: int = 1
    guidance: float = 1.0

    @property
    def row_steps(self) -> int:
        """Network evaluations of one row."""
        if self.kind == "encode":
            return 1
        return self.n * (self.base_steps * (1 if self.guidance == 1 else 2) + self.decode_steps)

    def generation(self, *, strict: bool) -> dict[str, Any]:
        """The body of a POST /generate."""
        return {
            "label": self.label,
            "n": self.n,
            "seed": self.seed,
            "steps": {"base": self.base_steps, "decode": self.decode_steps},
            "sampler": {"base": "dpmpp-2m", "decode": "ancestral"},
            "guidance": self.guidance,
            "guidance_interval": None,
            "strict": strict,
        }

    def picture(self, like: Picture) -> bytes:
        """A PNG of noise that needs no fitting."""
        pixels = random.Random(self.seed).randbytes(len(like.mode) * like.height * like.width)
        file = io.BytesIO()
        Image.frombytes(like.mode, (like.width, like.height), pixels).save(file, "PNG")
        return file.getvalue()

    def rival(self, like: Picture) -> dict[str, Any]:
        """The body that the rivals read: the same request in one JSON form."""
        if self.kind == "encode":
            return {"kind": "encode", "image": base64.b64encode(self.picture(like)).decode()}
        return {"kind": "generate", **self.generation(strict=False)}


def homogeneous(count: int, steps: int) -> list[Task]:
    """One image each, one plan, all guided: what request-level batching is made for."""
    return [Task("generate", i, i % 10, 1, steps, steps, GUIDANCE) for i in range(count)]


def widths(most: int) -> list[Task]:
    """One after the other, they make passes of every number of rows up to `most`."""
    return [Task("generate", n, n % 10, n) for n in range(1, most + 1)]


def heterogeneous(count: int, seed: int, classes: int = 10) -> list[Task]:
    """What people send: 10 to 100 steps, half of them guided, one to four images, encodes."""
    draw = random.Random(seed)
    return [_mixed(draw, i, classes) for i in range(count)]


def _mixed(draw: random.Random, seed: int, classes: int) -> Task:
    if draw.random() < _ENCODES:
        return Task("encode", seed)
    return Task(
        "generate",
        seed,
        draw.randrange(classes),
        draw.randint(1, 4),
        draw.choice(_STEPS),
        draw.choice(_STEPS),
        GUIDANCE if draw.random() < _GUIDED else 1.0,
    )
