"""Jobs to snapshots and back. Noise needs no state: it is a function of the step."""

from __future__ import annotations

from unified_latents.models.sampling import Stage, State
from unified_latents.service.engine.forecast import legs
from unified_latents.service.engine.messages import (
    Decode,
    Encode,
    Generate,
    SampleState,
    Snapshot,
)
from unified_latents.service.engine.snapshots import fingerprint, fits, seal
from unified_latents.service.stepper.answer import array
from unified_latents.service.stepper.walk import walk
from unified_latents.service.stepper.work import Job, Sample, tensor


def due(job: Job) -> bool:
    """Whether its client wants a snapshot now."""
    request = job.request
    if isinstance(request, Encode) or not request.snapshot_every or job.complete:
        return False
    windows = request.windows if isinstance(request, Decode) else 1
    return job.settled - job.saved >= request.snapshot_every * windows * len(job.outputs)


def snapshot(job: Job, numerics: str) -> Snapshot:
    """All samples of a job, as they are between two steps of each."""
    job.saved = job.settled
    return seal(
        Snapshot(
            id=job.request.id,
            done=job.saved,
            samples=tuple(_state(sample) for sample in job.samples),
            request=fingerprint(job.request),
            model=job.model.card.digest,
            numerics=numerics,
        )
    )


def restore(job: Job, numerics: str) -> bool:
    """Move a new job on to where its request says; whether it said so and it fits."""
    request = job.request
    if isinstance(request, Encode) or request.resume is None:
        return False
    found = request.resume
    if not fits(found, request, job.model.card.digest, numerics):
        return False
    if len(found.samples) != len(job.samples):
        return False
    for sample, state in zip(list(job.samples), found.samples, strict=True):
        job.samples[sample.index] = _sample(sample, state)
    job.done = job.saved = found.done
    return True


def _state(sample: Sample) -> SampleState:
    way = sample.walk
    if way is None:
        raise TypeError(f"a sample in {sample.stage} has no steps")
    with_latent = sample.stage == "decode" and isinstance(sample.job.request, Generate)
    given = array(sample.given) if with_latent and sample.given is not None else None
    return SampleState(
        sample.stage, way.step, array(way.state.x_t), array(way.state.previous), given
    )


def _sample(first: Sample, state: SampleState) -> Sample:
    """The sample that `state` was taken of, in the place of a new job's."""
    job, request = first.job, first.job.request
    if isinstance(request, Encode):
        raise TypeError("an encoding is too short to be resumed")
    here = Sample(job, first.index, state.stage, first.walk, first.given, tiles=first.tiles)
    device = job.model.device
    if isinstance(request, Generate) and state.stage == "decode" and request.decode is not None:
        number = request.first + first.index
        here.walk = walk(job.model, Stage.DECODE, request.decode, request.seed, number)
        here.given = None if state.given is None else tensor(state.given, device)
    way = here.walk
    if way is None:
        raise TypeError(f"a sample in {state.stage} has no steps")
    way.step = state.step
    way.state = State(tensor(state.x_t, device), tensor(state.previous, device))
    if way.ended and state.stage == legs(request)[-1].stage:
        job.outputs[first.index] = way.state.x_t
    return here
