"""The judge of labels: a small convolutional classifier trained on real pictures.

It names generated pictures (agreement with the label they were asked for), and its penultimate
layer is the feature space of distances between sets of gray pictures. It sees the region that
every picture of its set fills, so padding cannot help it. The weights for Fashion-MNIST are
shipped, and pinned by digest, so that everyone's figures come from the same judge.

    conv 3×3 → norm → ReLU → pool  (twice)  →  linear → norm → ReLU = features  →  linear = logits
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from unified_latents.models.pixels import to_unit
from unified_latents.training.data.sets import Batch, DataCard, DataError, Split

SHIPPED = "fashion-classifier.safetensors"
SHIPPED_SHA256 = "eb4150a8b970b2c8b8fe21987faebfe31060f47766bb3ff4cd23755a148cb9dd"
_POOLED = 7


@dataclass(frozen=True)
class ClassifierConfig:
    channels: int
    content_size: tuple[int, int]
    """The centred region (H, W) it looks at."""
    labels: tuple[str, ...]
    widths: tuple[int, int] = (24, 48)
    features: int = 128

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise DataError(f"a classifier needs two labels or more, got {self.labels}")

    @classmethod
    def of(cls, card: DataCard) -> ClassifierConfig:
        """For the pictures and labels of a set."""
        return cls(card.channels, card.content_size, card.labels)


class Classifier(nn.Module):
    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        first, second = config.widths
        self.config = config
        self.body = nn.Sequential(
            nn.Conv2d(config.channels, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(_POOLED),
            nn.Flatten(),
            nn.Linear(second * _POOLED**2, config.features, bias=False),
            nn.BatchNorm1d(config.features),
            nn.ReLU(),
        )
        self.head = nn.Linear(config.features, len(config.labels))

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Penultimate activations of pictures in [−1, 1]."""
        out: Tensor = self.body(crop(x, self.config.content_size))
        return out

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of pictures in [−1, 1]."""
        out: Tensor = self.head(self.features(x))
        return out


def crop(x: Float[Tensor, "*n h w"], size: tuple[int, int]) -> Float[Tensor, "*n a b"]:
    """The centred region of `size` = (H, W); the margins must be even in total."""
    top, left = ((full - part) // 2 for full, part in zip(x.shape[-2:], size, strict=True))
    return x[..., top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class ClassifierRecipe:
    """Defaults: Fashion-MNIST to 92–93 % in some five minutes on one thread."""

    epochs: int = 8
    batch: int = 128
    rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise DataError("a classifier needs an epoch or more, of batches of two or more")


class Labelled(Protocol):
    """Pictures to learn from: a split, or anything that hands out batches like one."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...


class Progress(NamedTuple):
    step: int
    steps: int
    loss: float


def train(
    pictures: Labelled, classifier: Classifier, recipe: ClassifierRecipe
) -> Iterator[Progress]:
    """Train in place with AdamW, one cycle of the rate, flips and dropout; a step per item."""
    generator = torch.Generator().manual_seed(recipe.seed)
    batch = min(recipe.batch, len(pictures))
    steps = recipe.epochs * (len(pictures) // batch)
    optimiser = torch.optim.AdamW(classifier.parameters(), weight_decay=recipe.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps + 1)
    classifier.train()
    for step, chosen in enumerate(_batches(len(pictures), batch, recipe.epochs, generator)):
        image, label = pictures.batch(chosen.tolist())
        features = classifier.features(_flip(to_unit(image), generator))
        kept = torch.rand(features.shape, generator=generator) >= recipe.dropout
        logits = classifier.head(features * kept / (1 - recipe.dropout))
        loss = functional.cross_entropy(logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
        yield Progress(step + 1, steps, loss.item())
    classifier.eval()


def _batches(size: int, batch: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Whole batches of each shuffled epoch; the remainder waits for the next shuffle."""
    for _ in range(epochs):
        order = torch.randperm(size, generator=generator)
        yield from order[: size // batch * batch].split(batch)


def _flip(x: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Each picture mirrored with probability one half."""
    flipped = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(rearrange(flipped, "n -> n 1 1 1"), x.flip(-1), x)


@torch.no_grad()
def hits(classifier: Classifier, split: Split, batch: int = 500) -> Bool[Tensor, " n"]:
    """Which of a split's pictures get their own label."""
    right = []
    for chosen in torch.arange(len(split)).split(batch):
        image, label = split.batch(chosen.tolist())
        right.append(classifier(to_unit(image)).argmax(1) == label)
    return torch.cat(right)


def save(path: Path, classifier: Classifier) -> str:
    """Write fp16 weights with the config beside them in the header; returns the SHA-256."""
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in classifier.state_dict().items()
    }
    raw = save_tensors(tensors, {"config": json.dumps(asdict(classifier.config))})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def load(path: Path) -> Classifier:
    """Weights that `save` wrote. `DataError` if the file is absent or another thing."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"no classifier at {path}: {error.strerror}") from error
    return _restore(raw, str(path))


def shipped(expected: str = SHIPPED_SHA256) -> Classifier:
    """The Fashion-MNIST classifier of this package. `DataError` if it is not the pinned one."""
    raw = (resources.files("unified_latents.training.evaluation") / SHIPPED).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise DataError(f"{SHIPPED} has SHA-256 {found}, not {expected}")
    return _restore(raw, SHIPPED)


def _restore(raw: bytes, name: str) -> Classifier:
    """The header's length comes first, as a little-endian 64-bit integer (safetensors)."""
    try:
        tensors = load_tensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        fields = json.loads(header["__metadata__"]["config"])
        tuples = {key: tuple(fields[key]) for key in ("content_size", "labels", "widths")}
        classifier = Classifier(ClassifierConfig(**(fields | tuples)))
        classifier.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} is not a classifier of ours: {error}") from error
    return classifier.eval()
