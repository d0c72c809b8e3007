"""Whole networks on the fused kernels: a training step of either stage, and a sampling run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from unified_latents.kernels import dispatch
from unified_latents.kernels.attention import rotary_angles
from unified_latents.models.base import BaseDraws, BaseModel, guided
from unified_latents.models.config import (
    BaseConfig,
    DecoderConfig,
    EncoderConfig,
    TransformerConfig,
    UnifiedConfig,
)
from unified_latents.models.sampling import (
    NoiseKeys,
    Stage,
    plan,
    sample,
)
from unified_latents.models.schedule import CosineSchedule, LinearSchedule
from unified_latents.models.transformer import Block
from unified_latents.models.unified import Draws, UnifiedLatents

Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = 1e-4
"""fp32 through whole networks; each kernel alone is held to 1e-5."""
_WIDTH = TransformerConfig(width=64, depth=1, head_dim=32)
_HALF = (2, 2)


def unified_config() -> UnifiedConfig:
    return UnifiedConfig(
        name="test",
        image_channels=1,
        size=(16, 16),
        latent_channels=4,
        encoder=EncoderConfig((8, 8), (1, 1), _HALF, (_HALF,)),
        prior=_WIDTH,
        decoder=DecoderConfig((8,), 1, _HALF, (_HALF,), _WIDTH),
        latent_schedule=LinearSchedule(-10.0, 5.0),
        image_schedule=CosineSchedule(-10.0, 10.0),
        loss_factor=2.0,
        decoder_bias=1.0,
    )


def base_config() -> BaseConfig:
    return BaseConfig(
        name="test",
        latent_shape=(4, 4, 4),
        outer=TransformerConfig(width=32, depth=2, head_dim=32),
        inner=_WIDTH,
        stride=_HALF,
        classes=3,
        schedule=LinearSchedule(-10.0, 5.0),
        bias=0.0,
    )


def awake(network: Network) -> Network:
    """Blocks start as the identity: weights that let every kernel matter."""
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        size = 0.3 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.3
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + size * noise
    return network


def gradients(loss: Callable[[], Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The loss and every gradient, by name."""
    network.zero_grad()
    value = loss()
    value.sum().backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert len(found) == len(list(network.parameters()))
    return {"loss": value.detach(), **found}


def differences(run: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
    """Relative errors above the tolerance, fused against reference."""
    want = run()
    with dispatch.forced(fused=True):
        got = run()
    errors = {name: float((got[name] - want[name]).norm() / want[name].norm()) for name in want}
    return {name: error for name, error in errors.items() if not error <= TOLERANCE}


def test_a_step_of_stage_1_equals_the_reference() -> None:
    config = unified_config()
    network = awake(UnifiedLatents(config))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 16, 16, generator=generator) * 2 - 1
    draws = Draws.sample(config, 2, generator)

    def loss() -> Tensor:
        terms = network.losses(x, draws)
        return terms.latent + terms.image

    assert differences(lambda: gradients(loss, network)) == {}


def test_a_step_of_stage_2_equals_the_reference() -> None:
    config = base_config()
    network = awake(BaseModel(config))
    generator = torch.Generator().manual_seed(0)
    z, draws = torch.randn(2, 4, 4, 4, generator=generator), BaseDraws.sample(config, 2, generator)
    label = torch.tensor([0, 3])

    def loss() -> Tensor:
        return network.losses(z, label, draws).weighted

    assert differences(lambda: gradients(loss, network)) == {}


@torch.inference_mode()
def test_fused_networks_never_ask_their_device_for_a_value() -> None:
    """Nor take a tensor of the host: neither can be in a CUDA graph, or be done without memory."""
    unified, base = UnifiedLatents(unified_config()).to("meta"), BaseModel(base_config()).to("meta")
    x, z = torch.empty(2, 1, 16, 16, device="meta"), torch.empty(2, 4, 4, 4, device="meta")
    log_snr, label = z[:, 0, 0, 0], torch.empty(2, dtype=torch.int64, device="meta")
    with dispatch.forced(fused=True):
        made = unified.encoder(x), unified.decoder(x, log_snr, z), base(z, log_snr, label)
    assert [tuple(each.shape) for each in made] == [(2, 4, 4, 4), (2, 1, 16, 16), (2, 4, 4, 4)]


def test_four_and_four_steps_equal_the_reference() -> None:
    """A latent under guidance on a part of the way, then its image."""
    config, base = unified_config(), awake(BaseModel(base_config()))
    unified, keys = awake(UnifiedLatents(config)), (torch.tensor([3]), torch.tensor([1]))
    denoiser = guided(base, torch.tensor([2]), 2.0, (-8.0, 2.0))
    latent = plan(config.latent_schedule, 4, "dpmpp-2m", to_mean=False)
    image = plan(config.image_schedule, 4, "ancestral", to_mean=True)

    def walk() -> dict[str, Tensor]:
        with torch.no_grad():
            own = NoiseKeys(*keys, Stage.BASE)
            z_0 = sample(denoiser, own, config.latent_shape, latent, clip=False)
            own = NoiseKeys(*keys, Stage.DECODE)
            x = sample(
                lambda x_t, log_snr: unified.decoder(x_t, log_snr, z_0),
                own,
                config.image_shape,
                image,
                clip=True,
            )
        return {"z_0": z_0, "image": x}

    assert differences(walk) == {}


@pytest.mark.parametrize("fused", [True, False])
def test_the_compiler_and_the_exporter_see_through_a_network(fused: bool) -> None:
    """fullgraph=True and torch.export give the eager bytes of either version."""
    network = awake(Block(_WIDTH, 8)).requires_grad_(False)
    inputs = torch.randn(1, 4, 64), torch.randn(1, 8), rotary_angles((2, 2), 32)
    with dispatch.forced(fused=fused):
        eager = network(*inputs)
        compiled: Callable[..., Tensor] = torch.compile(
            network, fullgraph=True, backend="aot_eager"
        )
        assert torch.equal(compiled(*inputs), eager)
        program = torch.export.export(network, inputs)
        exported: Any = program.module()
        assert torch.equal(exported(*inputs), eager)
    recorded = {str(node.target) for node in program.graph.nodes}
    operators = {name for name in recorded if name.startswith("unified_latents.")}
    own = {"attention", "modulate", "gated_residual"} if fused else set()
    assert operators == {f"unified_latents.{name}.default" for name in own}
