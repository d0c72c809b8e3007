"""Clips through a real server with a real engine and a store: HTTP, OpenAI's package, gRPC."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import openai
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning.operations_pb2_grpc import OperationsStub

from tests.service.conftest import LiveServer
from unified_latents.service.engine.messages import Array
from unified_latents.service.http import clips
from unified_latents.service.http.negotiation import LATENT
from unified_latents.service.rpc.proto.ul_pb2 import (
    DecodeRequest,
    ReadAnswerRequest,
    SubmitRequest,
)
from unified_latents.service.rpc.proto.ul_pb2_grpc import UnifiedLatentsStub

FRAMES = 10


@pytest.fixture(scope="module")
def server(tiny: Path, tiny_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A model of pictures first, one of clips of four frames beside it."""
    home = tmp_path_factory.mktemp("home")
    server = LiveServer(
        "--model", f"tiny={tiny}", "--model", f"film={tiny_clips}",
        UL_HOME=str(home), UL_GRPC_PORT="0",
    )  # fmt: skip
    try:
        server.wait_for(r"(ready): torch")
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="module")
def latent(server: LiveServer) -> bytes:
    """Of a clip more than twice as long as the model's own."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, FRAMES, 8, 8), np.uint8)
    file = clips.write(Array(pixels.shape, "uint8", pixels.tobytes()), "apng")[0]
    answer = server.http.post(
        "/encode?model=film&fit=exact", content=file, headers={"Content-Type": "image/apng"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["shape"] == [1, 4, FRAMES // 2, 2, 2]
    return base64.b64decode(answer.json()["latent"])


@pytest.fixture(scope="module")
def decoded(server: LiveServer, latent: bytes) -> bytes:
    """The clip again, without loss after the decoder."""
    headers = {"Content-Type": LATENT, "Accept": "image/apng"}
    answer = server.http.post("/decode?model=film&seed=3", content=latent, headers=headers)
    assert answer.status_code == 200, answer.text
    assert len(clips.read([answer.content], FRAMES, 10_000, "answer")) == FRAMES
    return answer.content


def test_a_long_clip_as_a_job_has_the_bytes_of_the_call(
    server: LiveServer, latent: bytes, decoded: bytes
) -> None:
    request = {"model": "film", "seed": 3, "latent": base64.b64encode(latent).decode()}
    body = {"kind": "decode", "request": request, "accept": "image/apng"}
    made = server.http.post("/jobs", json=body)
    assert made.status_code == 202, made.text
    path = made.headers["location"]
    for _ in range(1000):
        job = server.http.get(path).json()
        if job["finished_at"]:
            break
        time.sleep(0.05)
    assert job["state"] == "succeeded"
    assert job["progress"]["steps"] == 4 * (FRAMES // 2 - 1)
    assert server.http.get(f"{path}/result").content == decoded


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_openais_package_makes_a_video(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as sdk:
        video = sdk.videos.create_and_poll(prompt="circle", extra_body={"seed": 7})
        assert (video.status, video.progress) == ("completed", 100)
        file = sdk.videos.download_content(video.id).content
    assert len(clips.read([file], 4, 10_000, "answer")) == 4
    body = {"model": "film", "label": "circle", "seed": 7}
    headers = {"Accept": "video/mp4", "Prefer": "wait"}
    assert server.http.post("/generate", json=body, headers=headers).content == file


def test_a_generated_client_decodes_it_as_a_job(
    server: LiveServer, latent: bytes, decoded: bytes
) -> None:
    found = re.search(r"gRPC on (\S+) port (\d+)", "".join(server.log))
    assert found, server.log
    decode = DecodeRequest(model="film", latent=latent, seed=3)
    with grpc.insecure_channel(":".join(found.groups())) as channel:
        ul, operations = UnifiedLatentsStub(channel), OperationsStub(channel)
        operation = ul.Submit(SubmitRequest(decode=decode, accept="image/apng"))
        ended = operations.WaitOperation(lro.WaitOperationRequest(name=operation.name), timeout=60)
        parts = ul.ReadAnswer(ReadAnswerRequest(name=ended.name))
        assert b"".join(part.data for part in parts) == decoded
        operations.DeleteOperation(lro.DeleteOperationRequest(name=ended.name))
