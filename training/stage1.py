"""Stage 1: encoder, prior and decoder under one bound.

Both terms are divided by one constant, H·W·ln 2, so both read in bits per pixel. The bound that
is logged is never scaled by the encoder's warm-up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from unified_latents.models import checkpoint
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.objective.variants import VARIANTS
from unified_latents.models.pixels import to_unit
from unified_latents.models.unified import Draws, UnifiedLatents
from unified_latents.training import grids, measure
from unified_latents.training.cards import checkpoint_card
from unified_latents.training.control.bitrate import Controller, Plan
from unified_latents.training.control.collapse import Detector, Suspect
from unified_latents.training.control.pilot import Pilot, Probe, mixed_up
from unified_latents.training.data.sets import DataSet
from unified_latents.training.errors import TrainingError
from unified_latents.training.loop import StepReport, Terms
from unified_latents.training.measure import Settings
from unified_latents.training.order import generator, indices
from unified_latents.training.recipes import EncoderWarmup, Stage1Recipe

_GRID_COLUMNS = 8
_SHOWN_CLIPS = 4
_HELD_OUT = 512
_HELD_OUT_PIXELS = 2**21
"""At most, in all: a clip is as large as many pictures."""


class Inputs(NamedTuple):
    image: Tensor
    """uint8 [n, c, *size]."""
    draws: dict[str, Tensor]
    encoder_weight: Tensor
    """[n], all equal; a tensor, so that a compiled step is compiled once. So is c_lf."""
    loss_factor: Tensor


def bits_per_pixel(config: UnifiedConfig, nats: Tensor) -> Tensor:
    """Nats an image → bits a pixel of the H×W grid; of a clip, of every frame."""
    return nats / (math.prod(config.size) * math.log(2))


class Objective(nn.Module):
    """The bound of a batch, in bits a pixel."""

    def __init__(self, model: UnifiedLatents) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Terms:
        losses = self.model.losses(
            to_unit(inputs.image), Draws(**inputs.draws), inputs.encoder_weight[0]
        )
        louder = inputs.loss_factor / self.model.config.loss_factor
        rate = bits_per_pixel(self.model.config, losses.latent).mean()
        distortion = bits_per_pixel(self.model.config, louder * losses.image).mean()
        penalty = bits_per_pixel(self.model.config, losses.penalty).mean()
        loss = rate + distortion + penalty
        figures = {"loss": loss, "bits_per_pixel": rate, "decoder_loss": distortion}
        return Terms(loss, figures)


@dataclass(frozen=True)
class Stage1:
    """The run of a stage-1 recipe on a set."""

    recipe: Stage1Recipe
    data: DataSet
    objective: Objective
    init: str | None = None
    """The digest of the checkpoint that the weights started from."""

    @classmethod
    def build(cls, recipe: Stage1Recipe, data: DataSet, init: Path | None = None) -> Stage1:
        """With fresh weights, a function of the recipe's seed, or those of a checkpoint.

        `TrainingError` if the checkpoint's networks are of another shape. A trained decoder
        already listens, so a run from a checkpoint has no encoder warm-up.
        """
        if init is None:
            torch.manual_seed(recipe.training.seed)
            model = UnifiedLatents(recipe.model, VARIANTS[recipe.variant])
            return cls(recipe, data, Objective(model))
        start = checkpoint.load(init)
        check_shape(recipe.model, start.unified.config, init)
        model = UnifiedLatents(recipe.model, VARIANTS[recipe.variant])
        check_outputs(model, start.unified, init)
        model.load_state_dict(start.unified.state_dict())
        recipe = replace(recipe, encoder_warmup=EncoderWarmup(0, 0))
        return cls(recipe, data, Objective(model), start.manifest.digest)

    @property
    def name(self) -> str:
        return f"stage 1 {self.recipe.name}"

    def describe(self) -> dict[str, Any]:
        """Recipe, data and start: what decides the weights."""
        data = {"name": self.data.card.name, "sha256": self.data.card.sha256}
        return {"stage": 1, "recipe": asdict(self.recipe), "data": data, "init": self.init}

    def inputs(self, step: int) -> Inputs:
        training = self.recipe.training
        chosen = indices(training.seed, step, training.batch, len(self.data.train))
        noise = generator(training.seed, "draws", step)
        draws = Draws.sample(self.recipe.model, training.batch, noise)
        weight = self.recipe.encoder_warmup.weight(step)
        return self._inputs(self.data.train.batch(chosen).image, draws, weight)

    def _inputs(self, image: Tensor, draws: Draws, weight: float) -> Inputs:
        rows = torch.ones(len(image))
        return Inputs(image, vars(draws), weight * rows, self.pilot.loss_factor * rows)

    @cached_property
    def pilot(self) -> Pilot:
        """What watches the run, and moves c_lf if the recipe names a target."""
        recipe, warmup = self.recipe, self.recipe.encoder_warmup
        controller, factor = None, recipe.model.loss_factor
        if recipe.target_bits is not None:
            freeze = recipe.training.steps * 2 // 3
            plan = Plan(recipe.target_bits, warmup.hold + warmup.ramp, freeze)
            controller = Controller(plan, factor)
        detector = Detector(Suspect(factor, recipe.model.decoder_bias, warmup.hold))
        return Pilot(factor, controller, detector)

    @property
    def state(self) -> tuple[Pilot, ...]:
        return (self.pilot,)

    def follow(
        self, report: StepReport, average: Objective, mean: Callable[[Tensor], Tensor]
    ) -> None:
        """Show the pilot a step. `TrainingError` if the latent collapsed."""
        self.pilot.add(report.figures["bits_per_pixel"])
        if self.pilot.due(report.step + 1):
            device = report.figures["bits_per_pixel"].device
            inputs = send_to_device(self.inputs(report.step), device)
            self.pilot.follow(report.step + 1, probe(self.objective, average, inputs), mean)

    def figures(self) -> dict[str, float]:
        return self.pilot.figures()

    @cached_property
    def _shown(self) -> Tensor:
        most = 2 * _GRID_COLUMNS if self.data.card.frames is None else _SHOWN_CLIPS
        count = min(most, len(self.data.test))
        whole_rows = count - count % _GRID_COLUMNS or count
        return self.data.test.batch(range(whole_rows)).image

    def grid(self, average: Objective, path: Path) -> None:
        """Rows of test images, or frames of a clip, each over its reconstructions."""
        real = self._shown.to(next(average.parameters()).device)
        index = torch.arange(len(real), device=real.device)
        settings = Settings(self.recipe.defaults, levels=1)
        made = measure.images(average.model.plain(), real, index, self.recipe.model.size, settings)
        columns = self.data.card.frames or _GRID_COLUMNS
        both = (grids.stills(pictures).split(columns) for pictures in (real, made["picture"]))
        grids.write(
            path, torch.cat([part for row in zip(*both, strict=True) for part in row]), columns
        )

    @torch.no_grad()
    def held_out(self, average: Objective) -> dict[str, float]:
        """The bound on a part of the test split, always at the same levels and noise."""
        most = max(1, _HELD_OUT_PIXELS // math.prod(self.recipe.model.size))
        few = range(min(_HELD_OUT, most, len(self.data.test)))
        image = self.data.test.batch(few).image
        draws = Draws.sample(self.recipe.model, len(image), generator("held-out"))
        device = next(average.parameters()).device
        terms: Terms = average(send_to_device(self._inputs(image, draws, 1.0), device))
        return {f"test_{name}": float(value) for name, value in terms.figures.items()}

    def save(self, average: Objective, folder: Path, figures: dict[str, float]) -> None:
        """A checkpoint without a base model: it encodes and decodes. Its c_lf is the last one."""
        model = copy.copy(average.model.plain())
        model.config = replace(model.config, loss_factor=self.pilot.loss_factor)
        recipe = {"stage_1": self.describe()}
        metrics = {"stage_1": figures}
        card = checkpoint_card(
            self.recipe.name, self.data.card, recipe, metrics, self.recipe.defaults
        )
        checkpoint.save(folder, model, None, card)


@torch.no_grad()
def probe(raw: Objective, average: Objective, inputs: Inputs) -> Probe:
    """The batch's rate under both, and what its latents are worth to the averaged decoder."""
    whole: Terms = average(inputs)
    with mixed_up(average.model.decoder):
        confused: Terms = average(inputs)
    now: Terms = raw.eval()(inputs)
    raw.train()
    worth = confused.figures["decoder_loss"] - whole.figures["decoder_loss"]
    return Probe(
        float(now.figures["bits_per_pixel"]),
        float(whole.figures["bits_per_pixel"]),
        float(worth),
    )


_SHAPE = ("image_channels", "size", "latent_channels", "encoder", "prior", "decoder")


def check_outputs(want: UnifiedLatents, have: UnifiedLatents, path: Path) -> None:
    """`TrainingError` if a variant's encoder has outputs that a checkpoint's lacks."""
    channels = [unified.encoder.state_dict()["output.2.bias"].numel() for unified in (want, have)]
    if channels[0] != channels[1]:
        raise TrainingError(f"{path}: its encoder has no variances to start from")


def check_shape(want: UnifiedConfig, have: UnifiedConfig, path: Path) -> None:
    """`TrainingError` naming the first field in which two sets of networks differ."""
    for name in _SHAPE:
        if getattr(want, name) != getattr(have, name):
            raise TrainingError(
                f"{path} does not fit the recipe: {name} is {getattr(have, name)} there, "
                f"{getattr(want, name)} in the recipe"
            )
