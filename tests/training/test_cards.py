from __future__ import annotations

from unified_latents.models.manifest import Defaults, Preprocessing
from unified_latents.training.cards import checkpoint_card
from unified_latents.training.data.sets import DataSet


def test_a_checkpoint_says_what_its_pictures_were(pictures: DataSet) -> None:
    card = checkpoint_card("mine", pictures.card, {"stage_1": {}}, {"step": 3}, Defaults())
    assert card.labels == ("dark", "middle", "bright")
    assert card.preprocessing == Preprocessing("L", "crop", 0)
    assert card.data.sha256 == pictures.card.sha256
    assert card.data.counts == {"train": 40, "test": 12}
    assert card.licence == "CC0-1.0"
    assert card.defaults == Defaults()
    assert card.metrics == {"step": 3}
