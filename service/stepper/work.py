"""Requests as the step loop sees them: a `Job` of `Sample`s, each at its own step of its own plan.

A sample passes through stages (encode → rate, or base → decode) and is in one of them at a time.
All that a pass needs to know of it is here, so samples of different requests share passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unified_latents.models.clips.frames import NOTHING, Contexts
from unified_latents.models.pixels import to_unit
from unified_latents.models.sampling import NoiseKeys, Stage
from unified_latents.service.engine.deadlines import Way
from unified_latents.service.engine.forecast import Load, legs, samples
from unified_latents.service.engine.messages import (
    Array,
    Decode,
    Encode,
    Generate,
    Request,
)
from unified_latents.service.engine.telemetry import StageName
from unified_latents.service.stepper.catalogue import Model
from unified_latents.service.stepper.networks.numerics import arithmetic
from unified_latents.service.stepper.scheduler import Claim, Group
from unified_latents.service.stepper.tiles import Tiles, tiles
from unified_latents.service.stepper.walk import Walk, walk


@dataclass(eq=False)
class Job:
    """A request in the loop."""

    request: Request
    model: Model
    claim: Claim
    steps: int
    outputs: list[Tensor | None]
    known: Contexts = NOTHING
    """What both networks are shown of a clip, [1, …]."""
    done: int = 0
    saved: int = 0
    """`done` at the last snapshot."""
    started: bool = False
    marks: frozenset[int] = frozenset()
    """After how many of its steps a sample is looked at."""
    whole: Load | None = None
    """What the request costs from start to end."""
    way: Way | None = None
    """Its passes from start to end."""
    last: float = math.inf
    """From when on it may be too late for its deadline, by the latest forecast."""
    promised: float | None = None
    """The forecast at its arrival, in seconds, before any correction for bias."""
    ends: float | None = None
    """When the latest forecast sees it done."""
    bitrate: tuple[float, float] | None = None
    samples: list[Sample] = field(default_factory=list)
    """Each in the stage that it has reached."""

    @property
    def complete(self) -> bool:
        return all(output is not None for output in self.outputs)

    @property
    def settled(self) -> int:
        """`done` without the windows of steps that have not ended."""
        return self.done - sum(sample.tiles.at for sample in self.samples if sample.tiles)

    @property
    def left(self) -> Load | None:
        """What is still to be done of it."""
        if self.whole is None:
            return None
        return self.whole._replace(seconds=self.whole.seconds * (1 - self.done / self.steps))


@dataclass(eq=False)
class Sample:
    """One image or latent on its way; `index` is its place in the answer."""

    job: Job
    index: int
    stage: StageName
    walk: Walk | None = None
    given: Tensor | None = None
    """What the stage is conditioned on: pixels (encode), z_clean (rate), z_0 (decode)."""
    strata: list[Tensor] = field(default_factory=list)
    """What the passes of a rate have measured so far."""
    look: bool = False
    """An early look at a sample that goes on elsewhere."""
    tiles: Tiles | None = None
    """Of a clip that is longer than the networks take."""

    def cut(self, x: Tensor) -> Tensor:
        """What the next pass sees of the sample's picture or latent."""
        return x if self.tiles is None else self.tiles.cut(x)

    @property
    def group(self) -> Group:
        request = self.job.request
        alone = request.id if self.stage == "rate" else 0
        return Group(self.stage, self.job.model.key, request.strict, alone)

    @property
    def guided(self) -> bool:
        """Whether this step needs the unconditional prediction too."""
        request = self.job.request
        if self.stage != "base" or not isinstance(request, Generate) or self.walk is None:
            return False
        low, high = request.interval or (-math.inf, math.inf)
        return request.guidance != 1 and low <= self.walk.log_snr <= high

    @property
    def rows(self) -> int:
        return 2 if self.guided else 1


def tensor(array: Array, device: str) -> Tensor:
    """A message's array as a tensor."""
    dtype = torch.uint8 if array.dtype == "uint8" else torch.float32
    return torch.frombuffer(bytearray(array.data), dtype=dtype).reshape(array.shape).to(device)


def noised(model: Model, z_clean: Tensor, seed: int, sample: int) -> Tensor:
    """z_clean → z_0 with the sample's own key; [z, …] → [z, …]."""
    identity = torch.tensor([seed, sample], device=z_clean.device)
    keys = NoiseKeys(identity[:1], identity[1:], Stage.LATENT)
    return model.unified.noised_latent(z_clean[None], keys.at(0))[0]


def job(request: Request, model: Model, now: float) -> Job:
    """The request with its first samples."""
    deadline = None if request.timeout is None else now + request.timeout
    claim = Claim(request.priority, now, deadline)
    n = samples(request)
    steps = n * sum(leg.passes for leg in legs(request))
    new = Job(request, model, claim, steps, [None] * n, known=_known(request, model))
    config = model.unified.config
    match request:
        case Generate():
            new.samples += [_first_step(new, request, i) for i in range(n)]
        case Encode():
            pixels = tensor(request.image, model.device)
            cover = _tiles(request, model, pixels.shape[1] * config.grid[0] // config.size[0])
            new.samples.append(Sample(new, 0, "encode", given=pixels, tiles=cover))
        case Decode():
            rows = tensor(request.z, model.device)
            new.samples += [_given_latent(new, request, i, row) for i, row in enumerate(rows)]
    return new


def _known(request: Request, model: Model) -> Contexts:
    if not isinstance(request, Generate) or request.frames is None:
        return NOTHING
    frames = to_unit(tensor(request.frames, model.device))[None]
    with arithmetic(request.strict):
        return model.unified.contexts(frames)


def _first_step(new: Job, request: Generate, index: int) -> Sample:
    how = walk(new.model, Stage.BASE, request.base, request.seed, request.first + index)
    return Sample(new, index, "base", how)


def _given_latent(new: Job, request: Decode, index: int, z: Tensor) -> Sample:
    number = request.first + index
    z_0 = z if request.kind == "z_0" else noised(new.model, z, request.seed, number)
    cover, config = _tiles(request, new.model, z.shape[1]), new.model.unified.config
    frames = cover.windows.total * config.size[0] // config.grid[0] if cover else None
    how = walk(new.model, Stage.DECODE, request.decode, request.seed, number, frames)
    return Sample(new, index, "decode", how, z_0, tiles=cover)


def _tiles(request: Encode | Decode, model: Model, latent_frames: int) -> Tiles | None:
    """The windows of a clip that is longer than the model's own; None of others and of pictures."""
    length, *rest = model.unified.config.grid
    if len(rest) < 2 or latent_frames == length:
        return None
    return tiles(latent_frames, length, request.windows)


def following(sample: Sample, output: Tensor) -> Sample | None:
    """The sample's next stage after `output`; None where that was its last."""
    job, request = sample.job, sample.job.request
    if isinstance(request, Generate) and sample.stage == "base" and request.decode:
        seed, number = request.seed, request.first + sample.index
        how = walk(job.model, Stage.DECODE, request.decode, seed, number)
        return Sample(job, sample.index, "decode", how, output)
    if isinstance(request, Encode) and sample.stage == "encode" and request.levels:
        return Sample(job, sample.index, "rate", given=output)
    return None
