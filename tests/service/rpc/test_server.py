from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from unified_latents.service.rpc.proto.ul_pb2 import GenerateRequest
from unified_latents.service.rpc.proto.ul_pb2_grpc import UnifiedLatentsStub
from unified_latents.service.rpc.server import RpcServer


def test_a_port_that_is_taken_is_an_error(bench: Any) -> None:
    async def talk(channel: grpc.aio.Channel) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(RuntimeError):
                await RpcServer(bench.service).start("127.0.0.1", taken.getsockname()[1])

    bench.run(talk)


def test_calls_are_counted_by_their_end(bench: Any) -> None:
    async def talk(channel: grpc.aio.Channel) -> None:
        stub = UnifiedLatentsStub(channel)
        for request in (GenerateRequest(label_index=0), GenerateRequest()):
            with suppress(grpc.aio.AioRpcError):
                assert [event async for event in stub.Generate(request)]

    bench.run(talk)
    registry = bench.service.metrics.registry
    for code in ("OK", "INVALID_ARGUMENT"):
        labels = {"method": "Generate", "code": code}
        assert registry.get_sample_value("ul_grpc_requests_total", labels) == 1


def test_a_real_service_answers_on_both_ports(
    start_server: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    server = start_server("--model", f"tiny={tiny}", UL_HOME=str(tmp_path), UL_GRPC_PORT="0")
    found = re.search(r"gRPC on 127\.0\.0\.1 port (\d+)", "".join(server.log))
    assert found
    server.wait_for(r"(ready): torch")
    body = {"label": "circle", "seed": 3}
    picture = server.http.post("/generate", json=body, headers={"Accept": "image/png"}).content
    with grpc.insecure_channel(f"127.0.0.1:{found.group(1)}") as channel:
        request = GenerateRequest(label_name="circle", seed=3)
        *_, last = UnifiedLatentsStub(channel).Generate(request, timeout=60)
        assert last.item.data == picture
        assert server.stop() == 0
