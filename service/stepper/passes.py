"""One pass of one stage over a batch of samples: gather, forward, step, scatter.

Every row has its own level, coefficients, noise and condition. A pass changes its samples only
after all of its arithmetic has succeeded, so a batch that failed can be tried again in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unified_latents.kernels.dispatch import fuses
from unified_latents.kernels.noise import Guidance, Step
from unified_latents.models.bitrate import strata, summary
from unified_latents.models.pixels import to_unit
from unified_latents.models.sampling import NoiseKeys, Prediction, Stage, State, combined, step
from unified_latents.service.engine.forecast import RATE_ROWS
from unified_latents.service.engine.messages import Encode, Generate
from unified_latents.service.engine.telemetry import StageName
from unified_latents.service.stepper.walk import Walk, WalkNoise
from unified_latents.service.stepper.work import Sample, noised

_STEP_ROWS = 8


class Outcome(NamedTuple):
    """What a pass did to one sample: `output` where its stage has ended."""

    sample: Sample
    finite: bool
    output: Tensor | None


def encode(samples: Sequence[Sample]) -> list[Outcome]:
    """uint8 pixels → z_clean, in fp32."""
    model, strict = samples[0].job.model, samples[0].job.request.strict
    x = to_unit(torch.stack([sample.cut(_given(sample)) for sample in samples]))
    z_clean = model.evaluate("encode", x, strict=strict)
    made = _made(samples, z_clean)
    return [*_taken(made), *(Outcome(s, all(finite(z[None])), z) for s, z in made.whole)]


def rate(samples: Sequence[Sample]) -> list[Outcome]:
    """The next strata of one z_clean's bitrate; after the last, the rate is kept in its job.

    The output is the latent itself.
    """
    (sample,) = samples
    job, z_clean = sample.job, _given(sample)[None]
    request = job.request
    if not isinstance(request, Encode):
        raise TypeError("only an encoded image has a rate")
    identity = torch.tensor([request.seed, 0], device=z_clean.device)
    keys = NoiseKeys(identity[:1], identity[1:], Stage.BITRATE)
    first = len(sample.strata) * RATE_ROWS
    k = torch.arange(first, min(first + RATE_ROWS, request.levels))
    done = [*sample.strata, strata(job.model.unified, z_clean, keys, k, request.levels)]
    ended = first + RATE_ROWS >= request.levels
    if ended:
        measured = summary(job.model.unified, z_clean, torch.cat(done, 1))
        job.bitrate = measured.nats.item(), measured.std_error.item()
    sample.strata = done
    return [Outcome(sample, all(finite(done[-1])), z_clean[0] if ended else None)]


def base(samples: Sequence[Sample]) -> list[Outcome]:
    """One step of the base model; guided samples put a second row, with the null label, in."""
    model, strict = samples[0].job.model, samples[0].job.request.strict
    if model.base is None:
        raise TypeError("this model has no base model")
    requests = [_request(sample) for sample in samples]
    guided = [i for i, sample in enumerate(samples) if sample.guided]
    x_t, log_snr = _gather(samples)
    label = torch.tensor([request.label for request in requests], device=x_t.device)
    null = torch.full((len(guided),), model.base.config.classes, device=x_t.device)
    rows = torch.cat((x_t, x_t[guided]))
    levels, labels = torch.cat((log_snr, log_snr[guided])), torch.cat((label, null))
    shape = model.unified.config.grid
    seen = [s.job.known.base for s in samples]
    context = _context(seen, model.base.config.context, shape, x_t)
    known = (torch.cat((part, torch.zeros_like(part[guided]))) for part in context)
    v = model.evaluate("base", rows, levels, labels, *known, strict=strict)
    conditional, unconditional = v[: len(samples)], v[len(samples) :]
    if not guided:
        return _step(samples, conditional, clip=False)
    scale = torch.tensor([requests[i].guidance for i in guided], device=x_t.device)
    which = torch.tensor(guided, device=x_t.device)
    predicted = Prediction(conditional, Guidance(unconditional, scale, which))
    return _step(samples, predicted, clip=False)


def decode(samples: Sequence[Sample]) -> list[Outcome]:
    """One step of the decoder, each row under its own z_0."""
    model, strict = samples[0].job.model, samples[0].job.request.strict
    x_t, log_snr = _gather(samples)
    z_0 = torch.stack([sample.cut(_given(sample)) for sample in samples])
    config = model.unified.config
    seen = [s.job.known.decoder for s in samples]
    known = _context(seen, config.image_context, config.size, x_t)
    v_hat = model.evaluate("decode", x_t, log_snr, z_0, *known, strict=strict)
    made = _made(samples, v_hat)
    alone = [([sample], v[None]) for sample, v in made.whole if sample.tiles]
    short = [(sample, v) for sample, v in made.whole if not sample.tiles]
    rows = [([sample for sample, _ in short], torch.stack([v for _, v in short]))] if short else []
    moves = [_move(clips, v, clip=True) for clips, v in rows + alone]
    return [*_taken(made), *(outcome for move in moves for outcome in move.outcomes())]


PASSES: dict[StageName, Callable[[Sequence[Sample]], list[Outcome]]] = {
    "encode": encode,
    "rate": rate,
    "base": base,
    "decode": decode,
}


class _Made(NamedTuple):
    """What a network made of its rows; nothing has been changed yet."""

    whole: list[tuple[Sample, Tensor]]
    """A sample's prediction: its row, or the blend of its windows, of which this was the last."""
    open: list[tuple[Sample, Tensor]]
    """A window that others follow, weighed."""


def _made(samples: Sequence[Sample], rows: Tensor) -> _Made:
    made = _Made([], [])
    for sample, row in zip(samples, rows, strict=True):
        if sample.tiles is None:
            made.whole.append((sample, row))
            continue
        weighed = sample.tiles.weighed(row)
        if sample.tiles.last:
            made.whole.append((sample, sample.tiles.joined(weighed)))
        else:
            made.open.append((sample, weighed))
    return made


def _taken(made: _Made) -> list[Outcome]:
    """Long clips move on to their next window, or to the first of the next step."""
    flags = [all(finite(weighed)) for _, weighed in made.open]
    for sample, weighed in made.open:
        if sample.tiles:
            sample.tiles.take(weighed)
    for sample, _ in made.whole:
        if sample.tiles:
            sample.tiles.end()
    return [Outcome(s, ok, None) for (s, _), ok in zip(made.open, flags, strict=True)]


def finished_latent(sample: Sample, z_clean: Tensor) -> Tensor:
    """What `/encode` hands out: the mean, or the mean noised to λ(0)."""
    request = sample.job.request
    if isinstance(request, Encode) and request.kind == "z_0":
        return noised(sample.job.model, z_clean, request.seed, 0)
    return z_clean


def finite(x: Tensor) -> list[bool]:
    """Whether each row is free of NaN and ±∞."""
    flags: list[bool] = x.isfinite().flatten(1).all(1).tolist()
    return flags


def _given(sample: Sample) -> Tensor:
    if sample.given is None:
        raise TypeError(f"stage {sample.stage} needs an input")
    return sample.given


def _context(
    known: Sequence[tuple[Tensor, ...]],
    channels: tuple[int, ...],
    shape: tuple[int, ...],
    nothing: Tensor,
) -> tuple[Tensor, ...]:
    """What a network is shown beside its input, zeros for rows of which nothing is known.

    `nothing`: any tensor on the device.
    """
    return tuple(
        torch.cat([row[i] if row else nothing.new_zeros(1, width, *shape) for row in known])
        for i, width in enumerate(channels)
    )


def _request(sample: Sample) -> Generate:
    if not isinstance(sample.job.request, Generate):
        raise TypeError("only /generate samples the base model")
    return sample.job.request


def _walk(sample: Sample) -> Walk:
    if sample.walk is None:
        raise TypeError(f"stage {sample.stage} has no trajectory")
    return sample.walk


def _gather(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    walks = [_walk(sample) for sample in samples]
    pairs = zip(samples, walks, strict=True)
    x_t = torch.stack([sample.cut(walk.state.x_t) for sample, walk in pairs])
    return x_t, torch.tensor([walk.log_snr for walk in walks], device=x_t.device)


class _Move(NamedTuple):
    """A step that has been computed, and changes nothing before `outcomes`."""

    samples: Sequence[Sample]
    state: State
    finite: list[bool]

    def outcomes(self) -> list[Outcome]:
        """Every sample takes the step."""
        outcomes = []
        for sample, x, previous, ok in zip(self.samples, *self.state, self.finite, strict=True):
            walk = _walk(sample)
            walk.state, walk.step = State(x, previous), walk.step + 1
            outcomes.append(Outcome(sample, ok, x if walk.ended else None))
        return outcomes


def _step(
    samples: Sequence[Sample], predicted: Tensor | Prediction, *, clip: bool
) -> list[Outcome]:
    """`_move`, made."""
    return _move(samples, predicted, clip=clip).outcomes()


def _move(samples: Sequence[Sample], predicted: Tensor | Prediction, *, clip: bool) -> _Move:
    """One step of every sample: in one launch where kernels are fused, else a few rows at a time.

    torch computes α(λ) and σ(λ) by another routine, with other last bits, once a vector is long
    enough; blocks below that length keep a row's step independent of the batch.
    """
    if fuses(_walk(samples[0]).state.x_t):
        states = [_advance(samples, predicted, clip=clip)]
    else:
        v_hat = combined(predicted)
        states = [
            _advance(samples[i : i + _STEP_ROWS], v_hat[i : i + _STEP_ROWS], clip=clip)
            for i in range(0, len(samples), _STEP_ROWS)
        ]
    state = State(*(torch.cat(parts) for parts in zip(*states, strict=True)))
    return _Move(samples, state, finite(state.x_t))


def _advance(samples: Sequence[Sample], predicted: Tensor | Prediction, *, clip: bool) -> State:
    walks = [_walk(sample) for sample in samples]
    x_t = torch.stack([walk.state.x_t for walk in walks])
    log_snr = torch.tensor([walk.log_snr for walk in walks], device=x_t.device)
    state = State(x_t, torch.stack([walk.state.previous for walk in walks]))
    coefficients = torch.stack([walk.coefficients for walk in walks]).to(x_t.device)
    return step(state, predicted, Step(log_snr, coefficients), WalkNoise(walks), clip=clip)
