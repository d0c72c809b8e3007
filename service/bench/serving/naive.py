"""The first rival: a FastAPI handler that takes a lock, and answers one request at a time.

`python -P -m unified_latents.service.bench.serving.naive FOLDER THREADS PORT`.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI

from unified_latents.service.bench.serving.bare import Bare


def app(folder: str, threads: int) -> FastAPI:
    """POST /work and GET /health."""
    run, lock, made = Bare(folder, threads), threading.Lock(), FastAPI()

    @made.post("/work")
    def work(body: dict[str, Any]) -> dict[str, list[str]]:
        with lock:
            return {"data": run([body])[0]}

    @made.get("/health")
    def health() -> str:
        return "ok"

    return made


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[1], int(sys.argv[2])), port=int(sys.argv[3]), log_level="warning")
