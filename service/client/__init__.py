"""The service from Python: `Client`, and `AsyncClient` with the same methods to await.

    from unified_latents.service.client import Client

    with Client("http://127.0.0.1:8000") as ul:
        [picture] = ul.generate("sneaker", seed=6)
        latent = ul.encode(picture.data, bitrate=True)
        again = ul.decode(latent)
        job = ul.submit("generate", {"label": "sneaker", "n": 64})
        done = ul.wait(job, on_progress=lambda job: print(job.done, "of", job.steps))
        files = ul.result(done)
        batch = ul.submit_batch({"custom_id": str(i), "kind": "generate", "request": {"label": i}}
                                for i in range(10))
        ul.wait_batch(batch)
        rows = [(row, row.error or ul.result(row.job)) for row in ul.output(batch)]

What was refused or lost on the way is asked for again as the service's own headers say.
"""

from unified_latents.service.client.aio import AsyncClient
from unified_latents.service.client.blocking import Client
from unified_latents.service.client.errors import (
    ClientError,
    JobError,
    ProblemError,
    SignatureError,
    UnreachableError,
)
from unified_latents.service.client.results import (
    Batch,
    Bitrate,
    Event,
    Job,
    Latent,
    Notice,
    Picture,
    Row,
)
from unified_latents.service.client.retry import Retries
from unified_latents.service.client.webhooks import read_webhook

__all__ = [
    "AsyncClient",
    "Batch",
    "Bitrate",
    "Client",
    "ClientError",
    "Event",
    "Job",
    "JobError",
    "Latent",
    "Notice",
    "Picture",
    "ProblemError",
    "Retries",
    "Row",
    "SignatureError",
    "UnreachableError",
    "read_webhook",
]
