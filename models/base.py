"""Stage 2: the base model B, a two-stage ViT that generates latents (arXiv 2602.17270).

It learns z_t made directly from z_clean, with λ(0) kept and no loss factor, and is sampled down
to z_0 at λ(0), its noise included: that is what the decoder was trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from unified_latents.kernels.noise import Guidance
from unified_latents.models.config import BaseConfig
from unified_latents.models.diffusion import diffuse, elbo, sigmoid_weighted, velocity
from unified_latents.models.layers import (
    LevelEmbedding,
    Output,
    Positions,
    patchify,
    to_grid,
    to_tokens,
    unpatchify,
)
from unified_latents.models.sampling import Denoiser, Prediction
from unified_latents.models.transformer import Tokens, Transformer
from unified_latents.models.unified import antithetic


@dataclass(frozen=True)
class BaseDraws:
    """All the randomness of one evaluation of the base model's loss over n latents."""

    t: Float[Tensor, " n"]
    eps: Float[Tensor, "n z *g"]

    @classmethod
    def sample(cls, config: BaseConfig, n: int, generator: torch.Generator) -> BaseDraws:
        """Drawn on the CPU, whatever the device of the model."""
        eps = torch.randn((n, *config.latent_shape), generator=generator)
        return BaseDraws(antithetic(n, generator), eps)


@dataclass(frozen=True)
class BaseLosses:
    """Each [n], in nats a latent; `bound` carries no gradient and leaves out KL_1."""

    weighted: Float[Tensor, " n"]
    bound: Float[Tensor, " n"]


class BaseModel(nn.Module):
    """(z_t [n, z, *grid], λ [n], label [n]) → v̂; label `config.classes` is the null class.

    What is known of the clip (`frames`) follows as further inputs on the latent grid: all that
    `config.context` names, or none, which is the same as zeros.
    """

    def __init__(self, config: BaseConfig, text: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.config = config
        channels, grid = config.latent_shape[0], config.latent_shape[1:]
        outer, inner = config.outer, config.inner
        merged = math.prod(config.stride) * outer.width
        self.grid = grid
        self.inner_grid = tuple(g // s for g, s in zip(grid, config.stride, strict=True))
        self.level = LevelEmbedding(inner.width)
        self.label: nn.Module = nn.Embedding(config.classes + 1, inner.width)
        self.input = nn.Linear(channels, outer.width)
        self.context = nn.ModuleList(
            nn.Linear(known, outer.width, bias=False) for known in config.context
        )
        self.outer_positions = Positions(grid, outer.width, outer.head_dim)
        self.inner_positions = Positions(self.inner_grid, inner.width, inner.head_dim)
        self.before = Transformer(outer, outer.depth // 2, inner.width, text)
        self.merge = nn.Linear(merged, inner.width)
        self.inner = Transformer(inner, inner.depth, inner.width, text)
        self.split = nn.Linear(inner.width, merged)
        self.join = nn.Linear(2 * outer.width, outer.width)
        self.after = Transformer(outer, outer.depth // 2, inner.width, text)
        self.output = Output(outer.width, channels, inner.width)

    def forward(
        self,
        z_t: Float[Tensor, "n z *g"],
        log_snr: Float[Tensor, " n"],
        label: Int[Tensor, " n"],
        *context: Float[Tensor, "n k *g"],
    ) -> Float[Tensor, "n z *g"]:
        return self.denoise(z_t, self.level(log_snr) + self.label(label), context)

    def denoise(
        self,
        z_t: Float[Tensor, "n z *g"],
        condition: Float[Tensor, "n e"],
        context: tuple[Tensor, ...] = (),
        tokens: tuple[Tokens, ...] = (),
    ) -> Float[Tensor, "n z *g"]:
        """v̂ under a vector of level and class or caption, and over further tokens."""
        c = F.silu(condition)
        h = self.input(to_tokens(z_t)) + self.outer_positions()
        for layer, known in zip(self.context, context, strict=bool(context)):
            h = h + layer(to_tokens(known))
        h = skip = self.before(h, c, self.outer_positions.angles, *tokens)
        h = to_tokens(patchify(to_grid(h, self.grid), self.config.stride))
        h = self.merge(h) + self.inner_positions()
        h = self.split(self.inner(h, c, self.inner_positions.angles, *tokens))
        h = to_tokens(unpatchify(to_grid(h, self.inner_grid), self.config.stride))
        h = self.join(torch.cat((h, skip), -1))
        h = self.after(h, c, self.outer_positions.angles, *tokens)
        return to_grid(self.output(h, c), self.grid)

    def losses(
        self,
        z_clean: Float[Tensor, "n z *g"],
        label: Int[Tensor, " n"],
        draws: BaseDraws,
        *context: Float[Tensor, "n k *g"],
    ) -> BaseLosses:
        """The weighted loss that trains it, and the unweighted bound, at one level a row."""
        schedule = self.config.schedule
        log_snr = schedule.log_snr(draws.t)
        v_hat = self(diffuse(z_clean, draws.eps, log_snr), log_snr, label, *context)
        v = velocity(z_clean, draws.eps, log_snr)
        return BaseLosses(
            weighted=sigmoid_weighted(v, v_hat, draws.t, schedule, self.config.bias),
            bound=elbo(v.detach(), v_hat.detach(), draws.t, schedule),
        )


def guided(
    base: BaseModel,
    label: Int[Tensor, " n"],
    guidance: float,
    interval: tuple[float, float] | None = None,
    context: tuple[Tensor, ...] = (),
) -> Denoiser:
    """uncond + w (cond − uncond) where lo ≤ λ_t ≤ hi, the conditional prediction elsewhere.

    Unconditional is the null class with nothing known. Meant for rows that share one level, as in
    `sampling.trajectory`.
    """
    low, high = interval or (-math.inf, math.inf)
    null = torch.full_like(label, base.config.classes)

    def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor | Prediction:
        if guidance == 1 or not low <= log_snr[0].item() <= high:
            return base(z_t, log_snr, label, *context)
        labels = torch.cat((label, null))
        known = (torch.cat((part, torch.zeros_like(part))) for part in context)
        both = base(torch.cat((z_t, z_t)), torch.cat((log_snr, log_snr)), labels, *known)
        conditional, unconditional = both.chunk(2)
        scale = torch.full_like(log_snr, guidance)
        return Prediction(conditional, Guidance(unconditional, scale))

    return denoise
