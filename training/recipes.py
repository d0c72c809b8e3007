"""Recipes: a run as a function from a data card to a frozen config.

A recipe says everything that decides the weights that come out. Where the files are and how
often a snapshot is taken belong to the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from unified_latents.models import presets
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.manifest import Defaults
from unified_latents.models.objective.variants import VARIANTS, MeanDecoder
from unified_latents.training.data.card import DataCard
from unified_latents.training.errors import TrainingError

Precision = Literal["no", "bf16"]
_PLAIN, _GUIDED = Defaults(), Defaults(base_steps=25, guidance=1.5)
_CLIPS = Defaults(base_steps=25, decode_steps=25)


@dataclass(frozen=True)
class Optimiser:
    """AdamW with a linear warm-up, then a cosine down to `final` of the rate."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 200
    final: float = 0.05
    clip: float = 1.0
    """Largest norm of the whole gradient."""

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step i of `steps`."""
        warmup = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        return self.rate * warmup * (self.final + (1 - self.final) * cosine)


@dataclass(frozen=True)
class Training:
    """What both stages share."""

    steps: int
    batch: int
    """Images a step, over all ranks and accumulation."""
    optimiser: Optimiser = Optimiser()
    ema: float = 0.999
    seed: int = 0
    accumulation: int = 1
    precision: Precision = "no"
    """Of the networks' products: "no" is plain fp32."""
    compile: bool = False
    """Run the step through torch.compile: minutes at the start, then a faster step."""
    log_every: int = 100
    """Steps that one line of the log averages."""
    grid_every: int = 2000
    """Steps between two looks at samples and test split; whole windows of the log."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "log_every", "grid_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.grid_every % self.log_every:
            raise TrainingError(
                f"grid_every {self.grid_every} is no multiple of log_every {self.log_every}"
            )
        if self.batch % self.accumulation:
            raise TrainingError(
                f"a batch of {self.batch} does not split into {self.accumulation} equal parts"
            )


@dataclass(frozen=True)
class EncoderWarmup:
    """How much of the prior term's gradient reaches the encoder.

    An untrained prior overcharges the encoder before the decoder has learned to listen, and the
    latent collapses; so the encoder hears nothing of it for `hold` steps, then linearly more
    over `ramp` steps. The prior itself always trains on the full bound (arXiv 2602.17270).
    """

    hold: int
    ramp: int

    def weight(self, step: int) -> float:
        """The factor of step i, in [0, 1]."""
        if step < self.hold:
            return 0.0
        return min(1.0, (step - self.hold) / self.ramp) if self.ramp else 1.0


@dataclass(frozen=True)
class Stage1Recipe:
    """Encoder, prior and decoder, jointly."""

    name: str
    model: UnifiedConfig
    training: Training
    encoder_warmup: EncoderWarmup = EncoderWarmup(300, 1500)
    defaults: Defaults = _PLAIN
    """How the checkpoint is sampled unless a request says otherwise; the sample grids too."""
    target_bits: float | None = None
    """Bits a pixel that c_lf is moved towards, from the model's `loss_factor`; None holds it."""
    variant: str = "unified"
    """Which of `models.objective.variants` trains it."""


@dataclass(frozen=True)
class Stage2Recipe:
    """The base model, on the frozen encoder's `z_clean`."""

    name: str
    model: BaseConfig
    training: Training
    label_dropout: float = 0.1
    """How often a label is replaced by the null class, for guidance."""
    context_dropout: float = 0.2
    """How often the known frames of a clip are forgotten, so that none need be known."""
    defaults: Defaults = _GUIDED


def fashion(card: DataCard) -> Stage1Recipe:
    """The demo: Fashion-MNIST padded to 32x32, on one CPU thread."""
    return _stage1("fashion", presets.fashion(), Training(steps=7_000, batch=32), card)


def small_32(card: DataCard) -> Stage1Recipe:
    """Anyone's pictures at 32x32."""
    model = presets.small_32(card.channels)
    return _stage1("small_32", model, Training(steps=30_000, batch=32), card)


def small_64(card: DataCard) -> Stage1Recipe:
    """Anyone's pictures at 64x64."""
    model = presets.small_64(card.channels)
    return _stage1("small_64", model, Training(steps=50_000, batch=32), card)


def moving_sprites(card: DataCard) -> Stage1Recipe:
    """The video demo: clips of 16 frames at 32x32, on one CPU thread."""
    training = Training(steps=3_000, batch=8, log_every=50, grid_every=500)
    recipe = _stage1("moving_sprites", presets.sprites(card.channels), training, card)
    return replace(recipe, encoder_warmup=EncoderWarmup(150, 800), defaults=_CLIPS)


def fashion_base(card: DataCard, unified: UnifiedConfig) -> Stage2Recipe:
    """The demo's base model."""
    return _stage2("fashion", Training(steps=4_000, batch=64), card, unified)


def small_base(card: DataCard, unified: UnifiedConfig) -> Stage2Recipe:
    """A base model for either small stage 1."""
    return _stage2("small", Training(steps=20_000, batch=128), card, unified)


def moving_sprites_base(card: DataCard, unified: UnifiedConfig) -> Stage2Recipe:
    """The video demo's base model."""
    training = Training(steps=3_000, batch=32, log_every=50, grid_every=500)
    check_images(unified, card)
    model = presets.sprites_base(unified, classes=len(card.labels))
    return Stage2Recipe("moving_sprites", model, training, defaults=_CLIPS)


STAGE1: dict[str, Callable[[DataCard], Stage1Recipe]] = {
    "fashion": fashion,
    "small_32": small_32,
    "small_64": small_64,
    "moving_sprites": moving_sprites,
}
STAGE2: dict[str, Callable[[DataCard, UnifiedConfig], Stage2Recipe]] = {
    "fashion": fashion_base,
    "small": small_base,
    "moving_sprites": moving_sprites_base,
}


def _stage1(name: str, model: UnifiedConfig, training: Training, card: DataCard) -> Stage1Recipe:
    check_images(model, card)
    return Stage1Recipe(name, model, training)


def _stage2(name: str, training: Training, card: DataCard, unified: UnifiedConfig) -> Stage2Recipe:
    check_images(unified, card)
    model = presets.small_base(unified, classes=len(card.labels))
    return Stage2Recipe(name, model, training)


def check_images(model: UnifiedConfig, card: DataCard) -> None:
    """`TrainingError` unless the set's images are what the model takes."""
    have, want = (card.channels, *card.size), model.image_shape
    if have != want:
        kind = "images of (channels, height, width)"
        if len(model.size) == 3:
            kind = "clips of (channels, frames, height, width)"
        raise TrainingError(
            f"{model.name} takes {kind} {want}, but the set {card.name!r} has {have}: prepare it "
            f"in that size with `ul-train data …`, or choose another recipe"
        )


def with_bitrate(
    recipe: Stage1Recipe, loss_factor: float | None, decoder_bias: float | None
) -> Stage1Recipe:
    """The same recipe at another bitrate; `TrainingError` unless 0 < c_lf < ∞ and b is finite."""
    model = recipe.model
    factor = model.loss_factor if loss_factor is None else loss_factor
    bias = model.decoder_bias if decoder_bias is None else decoder_bias
    if not 0 < factor < math.inf:
        raise TrainingError(f"the loss factor must be positive, got {factor}")
    if not math.isfinite(bias):
        raise TrainingError(f"the decoder bias must be finite, got {bias}")
    return replace(recipe, model=replace(model, loss_factor=factor, decoder_bias=bias))


def with_variant(recipe: Stage1Recipe, name: str) -> Stage1Recipe:
    """The same recipe with another objective; `TrainingError` if none has that name.

    A decoder of means draws in one step.
    """
    if name not in VARIANTS:
        raise TrainingError(f"no variant {name!r}; there are: {', '.join(VARIANTS)}")
    defaults = recipe.defaults
    if isinstance(VARIANTS[name].image, MeanDecoder):
        defaults = replace(defaults, decode_steps=1)
    return replace(recipe, variant=name, defaults=defaults)


@dataclass(frozen=True)
class Overrides:
    """What a command line says instead of a recipe; None is the recipe's."""

    steps: int | None = None
    batch: int | None = None
    seed: int | None = None
    accumulation: int | None = None
    precision: Literal["fp32", "bf16"] | None = None
    compile: bool | None = None

    def of(self, training: Training) -> Training:
        said = {name: value for name, value in vars(self).items() if value is not None}
        if self.precision == "fp32":
            said["precision"] = "no"
        return replace(training, **said)
