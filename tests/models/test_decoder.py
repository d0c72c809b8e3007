"""The decoder: zero at the start, hears its level and z_0 by both ways, its size by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import Awaken, learns_everywhere
from unified_latents.models.config import DecoderConfig, TransformerConfig, UnifiedConfig
from unified_latents.models.decoder import Decoder


def decoder(config: UnifiedConfig) -> Decoder:
    return Decoder(
        config.decoder, config.image_channels, config.latent_channels, config.decoder_grid
    )


def inputs(config: UnifiedConfig, n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(n, *config.image_shape),
        torch.linspace(-9, 9, n),
        torch.randn(n, *config.latent_shape),
    )


def test_starts_at_zero_in_the_shape_of_the_picture(any_tiny: UnifiedConfig) -> None:
    x_t, log_snr, z_0 = inputs(any_tiny)
    assert torch.equal(decoder(any_tiny)(x_t, log_snr, z_0), torch.zeros_like(x_t))


def test_two_stages_on_the_latent_grid(tiny: UnifiedConfig, awaken: Awaken) -> None:
    """The paper's form: every stage halves, and the transformer's grid is the latent's."""
    half = (2, 2)
    deeper = DecoderConfig((8, 12), 2, (1, 1), (half, half), TransformerConfig(16, 1, 8))
    config = replace(tiny, decoder=deeper)
    assert config.decoder_grid == config.grid
    net, (x_t, log_snr, z_0) = awaken(decoder(config)), inputs(config)
    assert net(x_t, log_snr, z_0).shape == x_t.shape


def test_parameters_by_hand(any_tiny: UnifiedConfig) -> None:
    """Stem on 12 + 4 channels; down: a block of 8 and to 16; up: 16 to 8, a block 16 → 8."""
    w, z, pixels, space = 16, 4, 12, len(any_tiny.size)
    k, stride = 27 if space == 3 else 9, math.prod(any_tiny.decoder.strides[0])

    def block(inputs: int) -> int:
        skip = 0 if inputs == 8 else inputs * 8 + 8
        convolutions = (k * inputs * 8 + 8) + (k * 8 * 8 + 8)
        return 2 * inputs + 2 * 8 + convolutions + (w * 16 + 16) + skip

    transformer = (w * 6 * w + 6 * w) + (w * 3 * w + 3 * w) + 2 * 8 + (w * w + w)
    transformer += (w * 4 * w + 4 * w) + (4 * w * w + w)
    level = (128 * w + w) + (w * w + w)
    ends = ((pixels + z) * 8 + 8) + 16 + (k * 8 * pixels + pixels)
    middle = (stride * 8 * w + w) + (z * w + w) + 8 * space * w + transformer + (w * 8 + 8)
    want = ends + level + block(8) + middle + block(16)
    assert sum(p.numel() for p in decoder(any_tiny).parameters()) == want


def test_the_level_matters(any_tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, (x_t, log_snr, z_0) = awaken(decoder(any_tiny)), inputs(any_tiny)
    log_snr.requires_grad_()
    out = net(x_t, log_snr, z_0)
    assert (out - net(x_t, log_snr + 1, z_0)).flatten(1).norm(dim=1).min() > 1e-3
    (gradient,) = torch.autograd.grad(out.square().sum(), log_snr)
    assert (gradient != 0).all()


@pytest.mark.parametrize("closed", ["neither", "input", "middle"])
def test_z_0_enters_by_two_ways(any_tiny: UnifiedConfig, awaken: Awaken, closed: str) -> None:
    """Either way alone still carries every element of z_0; with both closed nothing passes."""
    net, (x_t, log_snr, z_0) = awaken(decoder(any_tiny)), inputs(any_tiny)
    latent_columns = net.get_parameter("stem.weight").detach()[:, -any_tiny.latent_channels :]
    if closed == "input":
        latent_columns.zero_()
    if closed == "middle":
        net.latent.weight.detach().zero_()
    z_0.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x_t, log_snr, z_0).square().sum(), z_0)
    assert (gradient != 0).all()
    latent_columns.zero_()
    net.latent.weight.detach().zero_()
    (gradient,) = torch.autograd.grad(net(x_t, log_snr, z_0).square().sum(), z_0)
    assert (gradient == 0).all()


def test_z_0_lands_where_its_cell_is(tiny: UnifiedConfig, awaken: Awaken) -> None:
    """The last cell of a 4×4 latent moves the last 2×2 corner of both 8×8 grids it is added to."""
    net, (x_t, _, z_0) = awaken(decoder(tiny)), inputs(tiny, 1)
    moved = z_0.clone()
    moved[..., 3, 3] += 1
    difference = caught_at(net.stem, net, x_t, z_0) - caught_at(net.stem, net, x_t, moved)
    assert cells_that_differ(difference.abs().sum((0, 1))) == _LAST_CORNER
    net.get_parameter("stem.weight").detach()[:, -tiny.latent_channels :].zero_()
    middle = caught_at(net.latent, net, x_t, z_0) - caught_at(net.latent, net, x_t, moved)
    assert cells_that_differ(middle.abs().sum((0, 2)).reshape(8, 8)) == _LAST_CORNER


_LAST_CORNER = {(6, 6), (6, 7), (7, 6), (7, 7)}


def cells_that_differ(difference: Tensor) -> set[tuple[int, int]]:
    return {(i, j) for i, j in difference.nonzero().tolist()}


def caught_at(part: nn.Module, net: Decoder, x_t: Tensor, z_0: Tensor) -> Tensor:
    """What `part` hands on during one pass."""
    caught: list[Tensor] = []
    handle = part.register_forward_hook(lambda _module, _inputs, out: caught.append(out))
    net(x_t, torch.zeros(len(x_t)), z_0)
    handle.remove()
    return caught[0]


def test_rows_do_not_see_each_other(any_tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, (x_t, log_snr, z_0) = awaken(decoder(any_tiny)), inputs(any_tiny)
    before = net(x_t, log_snr, z_0)
    x_t[1], log_snr[1], z_0[1] = torch.randn_like(x_t[1]), 3.0, torch.randn_like(z_0[1])
    after = net(x_t, log_snr, z_0)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.allclose(before[1], after[1])


def test_one_by_one_equals_batched(tiny: UnifiedConfig, awaken: Awaken) -> None:
    net, (x_t, log_snr, z_0) = awaken(decoder(tiny)), inputs(tiny)
    alone = [net(x_t[i : i + 1], log_snr[i : i + 1], z_0[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(net(x_t, log_snr, z_0), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_every_parameter_learns(any_tiny: UnifiedConfig) -> None:
    net, (x_t, log_snr, z_0) = decoder(any_tiny), inputs(any_tiny)
    learns_everywhere(net, lambda: net(x_t, log_snr, z_0))
