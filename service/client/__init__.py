"""The service from Python: `Client`, and `AsyncClient` with the same methods to await.

    from unified_latents.service.client import Client

    with Client("http://127.0.0.1:8000") as ul:
        [picture] = ul.generate("sneaker", seed=6)
        latent = ul.encode(picture.data, bitrate=True)
        again = ul.decode(latent)
        job = ul.submit("generate", {"label": "sneaker", "n": 64})
        done = ul.wait(job, on_progress=lambda job: print(job.done, "of", job.steps))
        files = ul.result(done)

What was refused or lost on the way is asked for again as the service's own headers say.
"""

from unified_latents.service.client.aio import AsyncClient
from unified_latents.service.client.blocking import Client
from unified_latents.service.client.errors import (
    ClientError,
    JobError,
    ProblemError,
    UnreachableError,
)
from unified_latents.service.client.results import Bitrate, Event, Job, Latent, Picture
from unified_latents.service.client.retry import Retries

__all__ = [
    "AsyncClient",
    "Bitrate",
    "Client",
    "ClientError",
    "Event",
    "Job",
    "JobError",
    "Latent",
    "Picture",
    "ProblemError",
    "Retries",
    "UnreachableError",
]
