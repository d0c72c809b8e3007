"""Posterior collapse, noticed while it happens: the latent costs more bits than it is worth.

What a latent is worth is how much dearer the decoder finds a batch when every picture gets another
one's latent. Measured on Fashion-MNIST from nothing, in shares of the rate: healthy runs 4.0 (c_lf
5) and 1.6 (c_lf 2) at step 80, at least 6.7 and 2.9 from 120 on; a collapsing one (c_lf 1.5, b = 0,
no warm-up) 0.15 at step 80, at most 0.07 from 120 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unified_latents.training.errors import TrainingError

_WORTH = 0.5
_GRACE = 80
_PATIENCE = 3


@dataclass(frozen=True)
class Suspect:
    """What the advice depends on."""

    loss_factor: float
    decoder_bias: float
    hold: int
    """Steps for which the encoder hears nothing of the prior: a collapse cannot begin before."""


class Detector:
    """Raises after three probes in a row of a decoder that does not listen."""

    def __init__(self, suspect: Suspect) -> None:
        self.suspect = suspect
        self._deaf = 0

    def observe(self, done: int, rate: float, worth: float) -> None:
        """Both in bits a pixel. `TrainingError` with the figures and the advice on a collapse."""
        if done < _GRACE + self.suspect.hold:
            return
        self._deaf = self._deaf + 1 if worth < _WORTH * rate else 0
        if self._deaf >= _PATIENCE:
            raise TrainingError(self._message(done, rate, worth))

    def _message(self, done: int, rate: float, worth: float) -> str:
        own = self.suspect
        return (
            f"the latent collapsed by step {done}: it costs {rate:.2g} bits a pixel and is worth "
            f"{worth:.2g} to the decoder, less than {_WORTH:g} of its cost in {_PATIENCE} probes "
            f"in a row, so the encoder is being paid to say nothing. Raise --loss-factor "
            f"(above 1; {own.loss_factor:g} now, 5 suits small pictures), raise --decoder-bias "
            f"({own.decoder_bias:g} now; add 2 ln(512 / side) to what suits 512 pixels), and let "
            "the decoder learn to listen first: --encoder-warmup 300 1500"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"deaf": self._deaf}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._deaf = state["deaf"]
