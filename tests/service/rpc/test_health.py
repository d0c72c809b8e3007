from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from unified_latents.service.keys import KeyRing, create

SERVICE = "ul.v1.UnifiedLatents"
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("name", ["", SERVICE])
def test_health_is_readiness_and_needs_no_key(make_bench: Callable[..., Any], name: str) -> None:
    bench = make_bench(KeyRing([create("alice", ["encode"])[1]]))

    async def talk(channel: grpc.aio.Channel) -> list[int]:
        stub: Any = HealthStub(channel)
        request = HealthCheckRequest(service=name)
        before = await stub.Check(request)
        bench.service.draining = True
        return [before.status, (await stub.Check(request)).status]

    assert bench.run(talk) == [SERVING, NOT_SERVING]


def test_whoever_watches_is_told(bench: Any) -> None:
    async def talk(channel: grpc.aio.Channel) -> list[int]:
        stub: Any = HealthStub(channel)
        watch = stub.Watch(HealthCheckRequest(service=SERVICE))
        async with asyncio.timeout(30):
            seen = [(await watch.read()).status]
            if seen == [NOT_SERVING]:  # it came before the first round
                seen = [(await watch.read()).status]
            bench.service.draining = True
            seen.append((await watch.read()).status)
        watch.cancel()
        return seen

    assert bench.run(talk) == [SERVING, NOT_SERVING]


async def ask(channel: grpc.aio.Channel, request: ServerReflectionRequest, **options: Any) -> Any:
    stub: Any = ServerReflectionStub  # its types know nothing of asyncio
    call = stub(channel).ServerReflectionInfo(iter([request]), **options)
    return await call.read()


def test_reflection_describes_every_method(bench: Any) -> None:
    async def talk(channel: grpc.aio.Channel) -> Any:
        listed = await ask(channel, ServerReflectionRequest(list_services=""))
        described = await ask(channel, ServerReflectionRequest(file_containing_symbol=SERVICE))
        return listed, described

    listed, described = bench.run(talk)
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    texts = described.file_descriptor_response.file_descriptor_proto
    pool, files = DescriptorPool(), [FileDescriptorProto.FromString(text) for text in texts]
    added: set[str] = set()
    while files:  # whoever needs others comes after them
        file = next(each for each in files if added.issuperset(each.dependency))
        pool.AddSerializedFile(file.SerializeToString())
        added.add(file.name)
        files.remove(file)
    methods = pool.FindServiceByName(SERVICE).methods
    assert {method.name for method in methods} == {
        "Generate", "Encode", "Decode", "Submit", "ReadAnswer",
    }  # fmt: skip


def test_reflection_needs_a_key_where_there_are_some(make_bench: Callable[..., Any]) -> None:
    secret, key = create("alice", ["encode"])
    bench, request = make_bench(KeyRing([key])), ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        bench.run(lambda channel: ask(channel, request))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    metadata = (("authorization", f"Bearer {secret}"),)
    assert bench.run(lambda channel: ask(channel, request, metadata=metadata)) is not None
