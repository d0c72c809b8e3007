"""The third rival: Ray Serve with `@serve.batch`.

`python -P -m unified_latents.service.bench.serving.ray_serve FOLDER THREADS PORT`, in an
environment that has rivals.txt.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from ray import serve
from starlette.requests import Request

from unified_latents.service.bench.serving.bare import Bare
from unified_latents.service.bench.serving.contenders import BATCH, BATCH_WAIT


class Work:
    """POST /work in batches of whole requests; GET says that it is there."""

    def __init__(self, folder: str, threads: int) -> None:
        self._run = Bare(folder, threads)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT)
    async def many(self, bodies: list[dict[str, Any]]) -> list[list[str]]:
        """One call of the model, in a thread so that the next batch gathers meanwhile."""
        return await asyncio.to_thread(self._run, bodies)

    async def __call__(self, request: Request) -> dict[str, list[str]]:
        if request.method == "GET":
            return {"data": []}
        return {"data": await self.many(await request.json())}


if __name__ == "__main__":
    options = {"max_ongoing_requests": 4 * BATCH, "ray_actor_options": {"num_cpus": 1}}
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[3])})
    work = serve.deployment(**options)(Work).bind(sys.argv[1], int(sys.argv[2]))
    serve.run(work, route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
