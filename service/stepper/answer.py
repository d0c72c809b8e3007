"""A finished job as the message that its parent waits for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unified_latents.models.pixels import from_unit
from unified_latents.service.engine.messages import Array, Bitrate, Encode, Generate, Result
from unified_latents.service.stepper.passes import finished_latent
from unified_latents.service.stepper.work import Job


def result(job: Job) -> Result:
    """Images, latents, or a latent and its bitrate."""
    number, request, model = job.request.id, job.request, job.model.card.digest
    outputs = torch.stack([output for output in job.outputs if output is not None])
    if isinstance(request, Encode):
        outputs = torch.stack([finished_latent(job.samples[0], outputs[0])])
        bitrate = Bitrate(*job.bitrate) if job.bitrate else None
        return Result(number, latents=array(outputs), bitrate=bitrate, model=model)
    if isinstance(request, Generate) and request.decode is None:
        return Result(number, latents=array(outputs), model=model)
    return Result(number, images=array(from_unit(outputs)), model=model)


def array(x: Tensor) -> Array:
    """uint8 or float32, as a message carries it."""
    values = x.cpu().contiguous().numpy()
    kind = "uint8" if values.dtype == np.uint8 else "float32"
    return Array(tuple(values.shape), kind, values.tobytes())  # type: ignore[arg-type]
