"""From a data card to what a checkpoint says of itself."""

from __future__ import annotations

from typing import Any

from unified_latents.models.manifest import Card, DataSource, Defaults, Preprocessing
from unified_latents.training.data.card import DataCard


def checkpoint_card(
    name: str,
    data: DataCard,
    recipe: dict[str, Any],
    metrics: dict[str, Any],
    defaults: Defaults,
) -> Card:
    """A card whose licence is that of the pictures, until its author says otherwise."""
    return Card(
        name=name,
        labels=data.labels,
        preprocessing=Preprocessing(data.mode, data.fit, data.background),
        data=DataSource(data.name, data.source, data.licence, dict(data.counts), dict(data.sha256)),
        licence=data.licence,
        defaults=defaults,
        recipe=recipe,
        metrics=metrics,
    )
