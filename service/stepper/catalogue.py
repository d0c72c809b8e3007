"""Loading checkpoints and describing them to the parent."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

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
from unified_latents.service.stepper.networks.compiled import Compiled, Library, NetworkName
from unified_latents.service.stepper.networks.graphs import CudaRecord, Graphs, launch


@dataclass(frozen=True)
class Model:
    """A loaded model and its description."""

    unified: UnifiedLatents
    base: BaseModel | None
    card: ModelCard
    device: str
    compiled: Mapping[NetworkName, Compiled] = field(default_factory=dict)
    """Networks that run as libraries."""
    graphs: Graphs | None = None
    """Recordings of those that do not; None: every pass launches them anew."""

    @property
    def key(self) -> str:
        """Name and digest: rows of one key share passes."""
        return f"{self.card.name}@{self.card.digest}"

    def evaluate(self, name: NetworkName, *inputs: Tensor, strict: bool) -> Tensor:
        """What a network makes of its rows."""
        if compiled := self.compiled.get(name):
            return compiled(*inputs, strict=strict)
        unified = self.unified
        networks = {"encode": unified.encoder, "base": self.base, "decode": unified.decoder}
        network = networks[name]
        if network is None:
            raise TypeError("this model has no base model")
        if self.graphs is not None:
            return self.graphs.run(name, network, inputs, strict=strict)
        return launch(network, inputs, strict=strict)


def load(
    wanted: Checkpoint, device: str, library: Library | None = None, *, graphs: bool = False
) -> Model:
    """Load, move to `device`, run the canary; a `CheckpointError` names what is wrong.

    Networks that `library` has run as it has them; `PackageError` for one that is damaged.
    `graphs`: passes are recorded and replayed, which is for CUDA.
    """
    loaded = checkpoint.load(wanted.path)
    loaded.unified.to(device)
    if loaded.base is not None:
        loaded.base.to(device)
    report = checkpoint.check_canary(loaded)
    compiled = library.match(loaded.unified, loaded.base) if library else {}
    card = _card(wanted.name, loaded, report, compiled)
    give_back()
    recordings = Graphs(partial(CudaRecord, device)) if graphs else None
    return Model(loaded.unified, loaded.base, card, device, compiled, recordings)


def give_back() -> None:
    """What loading needed for a while goes to the system: an engine's malloc keeps what is free."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _card(
    name: str,
    loaded: checkpoint.Checkpoint,
    report: CanaryReport,
    compiled: Mapping[NetworkName, Compiled],
) -> ModelCard:
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
        compiled=tuple(sorted(compiled)),
    )


def _defaults(loaded: checkpoint.Checkpoint) -> Defaults:
    said = loaded.card.defaults
    return Defaults(
        base=Trajectory(said.base_steps, said.base_sampler),
        decode=Trajectory(said.decode_steps, said.decode_sampler),
        guidance=said.guidance,
        interval=said.guidance_interval,
    )
