"""The second rival: LitServe with request-level dynamic batching.

`python -P -m unified_latents.service.bench.serving.lit FOLDER THREADS PORT`, in an environment
that has rivals.txt.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve

from unified_latents.service.bench.serving.bare import Bare
from unified_latents.service.bench.serving.contenders import BATCH, BATCH_WAIT


class Work(litserve.LitAPI):
    """A batch of whole requests in, their files out."""

    def __init__(self, folder: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=BATCH_WAIT, api_path="/work")
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:
        self._run = Bare(self._folder, self._threads)

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[dict[str, list[str]]]:
        return [{"data": files} for files in self._run(x)]

    def unbatch(self, output: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
        return output


if __name__ == "__main__":
    work = Work(sys.argv[1], int(sys.argv[2]))
    server = litserve.LitServer(work, accelerator="cpu", timeout=False)
    server.run(
        host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False, log_level="warning"
    )
