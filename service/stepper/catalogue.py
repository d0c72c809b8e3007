"""Loading checkpoints and describing them to the parent."""

from __future__ import annotations

from dataclasses import dataclass

from unified_latents.models import checkpoint
from unified_latents.models.base import BaseModel
from unified_latents.models.canary import CanaryReport
from unified_latents.models.unified import UnifiedLatents
from unified_latents.service.engine.messages import (
    Canary,
    Checkpoint,
    DataSource,
    Defaults,
    ModelCard,
    Preprocessing,
    Trajectory,
)


@dataclass(frozen=True)
class Model:
    """A loaded model and its description."""

    unified: UnifiedLatents
    base: BaseModel | None
    card: ModelCard
    device: str

    @property
    def key(self) -> str:
        """Name and digest: rows of one key share passes."""
        return f"{self.card.name}@{self.card.digest}"


def load(wanted: Checkpoint, device: str) -> Model:
    """Load, move to `device`, run the canary; a `CheckpointError` names what is wrong."""
    loaded = checkpoint.load(wanted.path)
    loaded.unified.to(device)
    if loaded.base is not None:
        loaded.base.to(device)
    report = checkpoint.check_canary(loaded)
    return Model(loaded.unified, loaded.base, _card(wanted.name, loaded, report), device)


def _card(name: str, loaded: checkpoint.Checkpoint, report: CanaryReport) -> ModelCard:
    card, config = loaded.card, loaded.unified.config
    training = card.preprocessing
    return ModelCard(
        name=name,
        kind="autoencoder" if loaded.base is None else "generator",
        digest=loaded.manifest.digest,
        labels=card.labels,
        channels=config.image_channels,
        size=config.size,
        preprocessing=Preprocessing(training.mode, training.fit, training.background),
        latent_shape=config.latent_shape,
        latent_space=loaded.manifest.latent_space,
        lambda_0=config.lambda_0,
        lambda_1=config.latent_schedule.lambda_min,
        defaults=_defaults(loaded),
        data=DataSource(card.data.name, card.data.source, card.data.licence),
        licence=card.licence,
        canary=Canary(report.ok, report.latent_error, report.image_error),
        known_frames=config.known_frames,
    )


def _defaults(loaded: checkpoint.Checkpoint) -> Defaults:
    said = loaded.card.defaults
    return Defaults(
        base=Trajectory(said.base_steps, said.base_sampler),
        decode=Trajectory(said.decode_steps, said.decode_sampler),
        guidance=said.guidance,
        interval=said.guidance_interval,
    )
