"""Early looks at a sample: what its picture would be if it ended now.

In the decoder that is x̂, which each step has at hand. In the base model x̂ is a latent: it gets its
noise for λ(0) and one decoder evaluation, a row like any other in a pass of the decoder. So a look
costs nothing there and one row here, whatever the request's own steps are.
"""

from __future__ import annotations

from torch import Tensor

from unified_latents.models.pixels import from_unit
from unified_latents.models.sampling import Stage
from unified_latents.service.engine.messages import (
    Encode,
    Generate,
    Request,
    Trajectory,
)
from unified_latents.service.stepper.walk import walk
from unified_latents.service.stepper.work import Sample, noised

_GLANCE = Trajectory(1, "ddim")


def marks(request: Request) -> frozenset[int]:
    """After how many of its steps a sample is looked at: evenly spaced, never at its end."""
    if isinstance(request, Encode):
        return frozenset()
    steps = request.decode.steps if request.decode else 0
    steps += request.base.steps if isinstance(request, Generate) else 0
    spaces = request.previews + 1
    return frozenset(round(steps * k / spaces) for k in range(1, spaces)) - {0, steps}


def look(sample: Sample) -> Tensor | Sample | None:
    """The picture (uint8 [c, H, W]) now, or the sample that will give it; None: no look is due."""
    job, way = sample.job, sample.walk
    if way is None or sample.look or (sample.tiles and sample.tiles.at):
        return None
    request = job.request
    before = request.base.steps if isinstance(request, Generate) and sample.stage == "decode" else 0
    if before + way.step not in job.marks or isinstance(request, Encode):
        return None
    if sample.stage == "decode":
        return from_unit(way.state.previous)
    number = request.first + sample.index
    z_0 = noised(job.model, way.state.previous, request.seed, number)
    glance = walk(job.model, Stage.DECODE, _GLANCE, request.seed, number)
    return Sample(job, sample.index, "decode", glance, z_0, look=True)
