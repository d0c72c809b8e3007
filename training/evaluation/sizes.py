"""`ul-train presets`: how large every named network is, measured on the meta device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from unified_latents.models import presets
from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, TextConfig, UnifiedConfig
from unified_latents.models.text import Caption, TextBaseModel
from unified_latents.models.unified import UnifiedLatents
from unified_latents.training.flops import forward_flops

_CLASSES = {"sprites": 2, "imagenet-512": 1000, "kinetics-600": 600}


@dataclass(frozen=True)
class Size:
    """One network of one preset."""

    preset: str
    network: str
    parameters: int
    flops: int
    """Of one forward pass on one sample; linear, convolution and attention products."""
    latent_shape: tuple[int, ...]


def sizes() -> Iterator[Size]:
    """Every preset's networks."""
    for unified in (presets.fashion(), presets.small_64(3)):
        yield from unified_sizes(unified)
        yield base_size(presets.small_base(unified, 10))
    yield from unified_sizes(presets.sprites())
    yield base_size(presets.sprites_base(presets.sprites(), _CLASSES["sprites"]))
    for unified in (presets.imagenet_512(), presets.kinetics_600()):
        yield from unified_sizes(unified)
        for base in (presets.paper_base, presets.paper_base_small):
            yield base_size(base(unified, _CLASSES[unified.name]))
    for text_base in presets.text_bases(presets.imagenet_512()).values():
        yield text_size(text_base, presets.CAPTIONS)


def text_size(config: BaseConfig, text: TextConfig) -> Size:
    """A base model under captions of full length."""
    with torch.device("meta"):
        model = TextBaseModel(config, text).eval()
        z, log_snr = torch.empty(1, *config.latent_shape), torch.empty(1)
        states, pooled = torch.empty(1, text.length, text.width), torch.empty(1, text.pooled)
        caption = Caption(states, pooled, torch.empty(1, text.length, dtype=torch.bool))
    return _size(
        config.name, "base", model, lambda: model(z, log_snr, caption), config.latent_shape
    )


def unified_sizes(config: UnifiedConfig) -> Iterator[Size]:
    """Encoder, prior and decoder, with what is known given."""
    with torch.device("meta"):
        model = UnifiedLatents(config).eval()
        x, log_snr = torch.empty(1, *config.image_shape), torch.empty(1)
        z = torch.empty(1, *config.latent_shape)
        known = [torch.empty(1, channels, *config.size) for channels in config.image_context]
    passes: dict[str, Callable[[], object]] = {
        "encoder": lambda: model.encoder(x),
        "prior": lambda: model.prior(z, log_snr),
        "decoder": lambda: model.decoder(x, log_snr, z, *known),
    }
    for name, forward in passes.items():
        yield _size(config.name, name, model.get_submodule(name), forward, config.latent_shape)


def base_size(config: BaseConfig) -> Size:
    """The base model."""
    with torch.device("meta"):
        model = BaseModel(config).eval()
        z, log_snr = torch.empty(1, *config.latent_shape), torch.empty(1)
        label = torch.empty(1, dtype=torch.int64)
        known = [torch.empty(1, channels, *config.latent_shape[1:]) for channels in config.context]

    def forward() -> object:
        return model(z, log_snr, label, *known)

    return _size(config.name, "base", model, forward, config.latent_shape)


def _size(
    preset: str,
    network: str,
    module: nn.Module,
    forward: Callable[[], object],
    latent_shape: tuple[int, ...],
) -> Size:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Size(preset, network, parameters, forward_flops(forward), latent_shape)


def show(console: Console) -> None:
    """Print the table, one row a network."""
    table = Table(title="1 multiply-add = 2 FLOP; one sample, one forward pass")
    for column in ("preset", "network", "latent shape"):
        table.add_column(column)
    for column in ("parameters", "GFLOP"):
        table.add_column(column, justify="right")
    for size in sizes():
        shape = "×".join(map(str, (*size.latent_shape[1:], size.latent_shape[0])))
        gflop = size.flops / 1e9
        digits = max(0, 2 - math.floor(math.log10(gflop)))
        table.add_row(
            size.preset, size.network, shape, f"{size.parameters:,}", f"{gflop:,.{digits}f}"
        )
    console.print(table)
