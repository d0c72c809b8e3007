"""Stage 2: the base model, on what the frozen encoder makes of the training set.

Every image is encoded once; z_t is made directly from z_clean and no other noise is ever added,
so that Var(z_t | z_clean) = σ_t² (arXiv 2602.17270).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from unified_latents.models import checkpoint
from unified_latents.models.base import BaseDraws, BaseModel
from unified_latents.models.config import BaseConfig
from unified_latents.models.diffusion import kl_to_standard_normal, per_sample
from unified_latents.models.pixels import to_unit
from unified_latents.training import grids, measure
from unified_latents.training.cards import checkpoint_card
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.latents import Latents, cached
from unified_latents.training.loop import StepReport, Terms
from unified_latents.training.measure import Settings
from unified_latents.training.order import generator, indices
from unified_latents.training.recipes import Stage2Recipe

_HELD_OUT = 2048
_SHOWN_CLASSES, _A_CLASS = 10, 4
_SHOWN_CLIPS = 4


class Inputs(NamedTuple):
    z_clean: Tensor
    label: Tensor
    draws: dict[str, Tensor]
    context: tuple[Tensor, ...]


class Objective(nn.Module):
    """The weighted loss of a batch per latent dimension, and the unweighted bound.

    The bound has KL_1 in it, as the prior's has, and is in bits a pixel: compare the two.
    """

    def __init__(self, model: BaseModel, pixels: int) -> None:
        super().__init__()
        self.model, self.pixels = model, pixels

    def forward(self, inputs: Inputs) -> Terms:
        draws = BaseDraws(**inputs.draws)
        losses = self.model.losses(inputs.z_clean, inputs.label, draws, *inputs.context)
        config = self.model.config
        loss = losses.weighted.mean() / math.prod(config.latent_shape)
        kl_1 = kl_to_standard_normal(inputs.z_clean, config.schedule.lambda_min)
        bits = (losses.bound + kl_1).mean() / math.log(2) / self.pixels
        return Terms(loss, {"loss": loss, "bits_per_pixel": bits})


def drop_labels(label: Tensor, null: int, rate: float, noise: torch.Generator) -> Tensor:
    """Each label replaced by the null class with probability `rate`."""
    dropped = torch.rand(len(label), generator=noise) < rate
    return torch.where(dropped, null, label)


def drop_context(
    context: tuple[Tensor, ...], rate: float, noise: torch.Generator
) -> tuple[Tensor, ...]:
    """Each row's known frames forgotten, which is zeros, with probability `rate`."""
    return tuple(
        per_sample((torch.rand(len(part), generator=noise) >= rate).float(), part) * part
        for part in context
    )


@dataclass(frozen=True)
class Stage2:
    """The run of a stage-2 recipe on a set, over a stage-1 checkpoint."""

    recipe: Stage2Recipe
    data: DataSet
    start: checkpoint.Checkpoint
    """Stage 1's."""
    train: Latents
    test: Latents
    objective: Objective
    init: str | None = None
    """The digest of the checkpoint that the base model started from."""

    @classmethod
    def build(
        cls,
        recipe: Stage2Recipe,
        data: DataSet,
        start: checkpoint.Checkpoint,
        out: Path,
        init: Path | None = None,
    ) -> Stage2:
        """Encode both splits (or find them encoded in `out`), and make the base model.

        `TrainingError` if the set is not what stage 1 takes or `init` is of another shape.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        digest = start.manifest.digest
        train = cached(out, "train", data.train, start.unified, digest, device)
        test = cached(out, "test", data.test, start.unified, digest, device)
        torch.manual_seed(recipe.training.seed)
        model, source = BaseModel(recipe.model), None
        if init is not None:
            source = _fill(model, init)
        objective = Objective(model, math.prod(start.unified.config.size))
        return cls(recipe, data, start, train, test, objective, source)

    @property
    def name(self) -> str:
        return f"stage 2 {self.recipe.name}"

    def describe(self) -> dict[str, Any]:
        """Recipe, data and both starts: what decides the weights."""
        return {
            "stage": 2,
            "recipe": asdict(self.recipe),
            "data": {"name": self.data.card.name, "sha256": self.data.card.sha256},
            "stage_1": self.start.manifest.digest,
            "init": self.init,
        }

    @property
    def state(self) -> tuple[()]:
        """Nothing beside the weights."""
        return ()

    def follow(
        self, report: StepReport, average: Objective, mean: Callable[[Tensor], Tensor]
    ) -> None:
        """Nothing is steered."""

    def figures(self) -> dict[str, float]:
        return {}

    def inputs(self, step: int) -> Inputs:
        training, model = self.recipe.training, self.recipe.model
        chosen = indices(training.seed, step, training.batch, len(self.train.z_clean))
        noise = generator(training.seed, "draws", step)
        draws = BaseDraws.sample(model, training.batch, noise)
        label = drop_labels(
            self.train.label[chosen], model.classes, self.recipe.label_dropout, noise
        )
        known = tuple(part[chosen] for part in self.train.context)
        context = drop_context(known, self.recipe.context_dropout, noise)
        return Inputs(self.train.z_clean[chosen], label, vars(draws), context)

    @torch.no_grad()
    def held_out(self, average: Objective) -> dict[str, float]:
        """Loss and bound on a part of the test split, given the true labels and known frames.

        Always at the same levels and noise.
        """
        z_clean, label = self.test.z_clean[:_HELD_OUT], self.test.label[:_HELD_OUT]
        draws = BaseDraws.sample(self.recipe.model, len(z_clean), generator("held-out"))
        device = next(average.parameters()).device
        context = tuple(part[:_HELD_OUT] for part in self.test.context)
        inputs = send_to_device(Inputs(z_clean, label, vars(draws), context), device)
        terms: Terms = average(inputs)
        return {f"test_{name}": float(value) for name, value in terms.figures.items()}

    @cached_property
    def _labels(self) -> Tensor:
        shown = torch.arange(min(_SHOWN_CLASSES, self.recipe.model.classes))
        return shown.repeat_interleave(_A_CLASS)

    def grid(self, average: Objective, path: Path) -> None:
        """Samples through the decoder, by the checkpoint's defaults.

        Of pictures one column a class; of clips, the real one over two that go on from its known
        frames.
        """
        draw = self._pictures if self.data.card.frames is None else self._clips
        draw(average, path)

    def _pictures(self, average: Objective, path: Path) -> None:
        label = self._labels.to(next(average.parameters()).device)
        unified = self.start.unified.to(label.device)
        index = torch.arange(len(label), device=label.device)
        made = measure.generated(
            unified, average.model, label, index, Settings(self.recipe.defaults)
        )
        by_row = made["picture"].unflatten(0, (-1, _A_CLASS)).transpose(0, 1).flatten(0, 1)
        grids.write(path, by_row, columns=len(label) // _A_CLASS)

    def _clips(self, average: Objective, path: Path) -> None:
        device = next(average.parameters()).device
        unified = self.start.unified.to(device)
        shown = self.data.test.batch(range(min(_SHOWN_CLIPS, len(self.data.test))))
        real = shown.image.to(device).repeat_interleave(2, 0)
        label = shown.label.to(device).repeat_interleave(2, 0)
        index = torch.arange(len(real), device=device)
        with torch.no_grad():
            known = unified.contexts(to_unit(real))
        settings = Settings(self.recipe.defaults)
        made = measure.generated(unified, average.model, label, index, settings, known)["picture"]
        rows = torch.stack((real[::2], made[::2], made[1::2]), 1).flatten(0, 1)
        grids.write(path, grids.stills(rows), columns=rows.shape[2])

    def save(self, average: Objective, folder: Path, figures: dict[str, float]) -> None:
        """Stage 1's networks as they were, and the averaged base model."""
        card = checkpoint_card(
            self.start.card.name,
            self.data.card,
            self.start.card.recipe | {"stage_2": self.describe()},
            self.start.card.metrics | {"stage_2": figures},
            self.recipe.defaults,
        )
        checkpoint.save(folder, self.start.unified, average.model, card)


def _fill(model: BaseModel, init: Path) -> str:
    """Load the base model of `init`; the checkpoint's digest."""
    source = checkpoint.load(init)
    if source.base is None:
        raise TrainingError(f"{init} holds no base model to start from")
    if _shape(source.base.config) != _shape(model.config):
        raise TrainingError(f"{init}: its base model is of another shape than the recipe's")
    model.load_state_dict(source.base.state_dict())
    return source.manifest.digest


def _shape(config: BaseConfig) -> tuple[Any, ...]:
    return (
        config.latent_shape,
        config.outer,
        config.inner,
        config.stride,
        config.classes,
        config.context,
    )
