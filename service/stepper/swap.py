"""Loading a model beside those that are served, while the loop goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from unified_latents.models.manifest import CheckpointError
from unified_latents.service.engine.messages import Checkpoint, ModelCard
from unified_latents.service.engine.protocol import Load
from unified_latents.service.stepper.catalogue import Model

log = logging.getLogger(__name__)


class Swap(NamedTuple):
    """What came of a `Load`: a model, or what is wrong with it."""

    asked: Load
    model: Model | None
    error: str | None


class Loader:
    """Loads in threads, one model at a time; `done` is called there with each outcome."""

    def __init__(self, load: Callable[[Checkpoint], Model], done: Callable[[Swap], None]) -> None:
        self._load, self._done = load, done
        self._one = threading.Lock()

    def start(self, asked: Load, old: ModelCard | None) -> None:
        """Begin; `old` is what the model shall replace."""
        threading.Thread(target=self._run, args=(asked, old), daemon=True).start()

    def _run(self, asked: Load, old: ModelCard | None) -> None:
        with self._one:
            try:
                swap = Swap(asked, self._checked(asked, old), None)
            except Exception as error:  # whatever it is, the loop goes on with what it has
                log.warning("%s is not loaded: %s", asked.checkpoint.path, error)
                swap = Swap(asked, None, str(error) or type(error).__name__)
        self._done(swap)

    def _checked(self, asked: Load, old: ModelCard | None) -> Model:
        """`CheckpointError` for files that are damaged or missing, and for one that may not be."""
        path, model = asked.checkpoint.path, self._load(asked.checkpoint)
        if not model.card.canary.ok:
            raise CheckpointError(f"{path}: the canary's recorded run was not reproduced")
        other = old is not None and old.latent_space != model.card.latent_space
        if other and not asked.other_space:
            raise CheckpointError(f"{path}: its latents are of another space")
        return model
