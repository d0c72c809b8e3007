from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.rpc.code_pb2 import CANCELLED

from tests.service.jobs.conftest import Desk, generate, start_store
from unified_latents.service.http.core import Service
from unified_latents.service.jobs.job import Job
from unified_latents.service.jobs.runtime import Options
from unified_latents.service.jobs.server import find_server
from unified_latents.service.keys import KeyRing
from unified_latents.service.rpc.proto.ul_pb2 import JobAnswer, JobMetadata
from unified_latents.service.rpc.server import RpcServer
from unified_latents.service.settings import Settings

IDENTITY = f"job_{'a' * 32}"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    process = start_store(tmp_path, find_server())
    yield Desk(f"unix://{tmp_path / 's'}", tmp_path)
    process.terminate()
    process.wait(10)


@asynccontextmanager
async def talking(desk: Desk) -> AsyncIterator[Any]:
    async with desk.open() as jobs:
        service = Service(Settings(), desk.engine, desk.metrics, KeyRing(), jobs)
        server = RpcServer(service)
        port = await server.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield OperationsStub(channel)
        await server.stop(0)


async def queue(desk: Desk, owner: str = "anonymous") -> Job:
    made = await desk.jobs.submit(IDENTITY, generate(), "0" * 64, owner, Options())
    return made.job


def test_a_job_is_waited_for_and_its_answer_named(desk: Desk) -> None:
    async def talk() -> None:
        async with talking(desk) as stub:
            job = await queue(desk)
            name = f"operations/{job.id}"
            endless = lro.WaitOperationRequest(name=name)
            endless.timeout.seconds = 2**62
            ended = await stub.WaitOperation(endless, timeout=30)
            assert ended.done
            answer, metadata = JobAnswer(), JobMetadata()
            assert ended.response.Unpack(answer)
            assert ended.metadata.Unpack(metadata)
            assert answer.path == f"/jobs/{job.id}/result"
            assert (answer.media_type, len(answer.sha256)) == ("image/png", 64)
            assert (metadata.kind, metadata.state) == ("generate", "succeeded")
            assert await stub.GetOperation(lro.GetOperationRequest(name=name)) == ended
            page = await stub.ListOperations(lro.ListOperationsRequest(name="operations"))
            assert list(page.operations) == [ended]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CancelOperation(lro.CancelOperationRequest(name=name))
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    asyncio.run(talk())


def test_a_job_is_cancelled(desk: Desk) -> None:
    async def talk() -> None:
        async with talking(desk) as stub:
            with desk.engine.hold():
                name = f"operations/{(await queue(desk)).id}"
                early = lro.WaitOperationRequest(name=name)
                early.timeout.FromMilliseconds(50)
                assert not (await stub.WaitOperation(early)).done
                await stub.CancelOperation(lro.CancelOperationRequest(name=name))
                ended = await stub.WaitOperation(lro.WaitOperationRequest(name=name), timeout=30)
            assert ended.done
            assert ended.error.code == CANCELLED

    asyncio.run(talk())


def test_a_job_that_has_ended_is_forgotten_and_no_other(desk: Desk) -> None:
    async def refused(call: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        code: grpc.StatusCode = caught.value.code()
        return code

    async def talk() -> None:
        async with talking(desk) as stub:
            with desk.engine.hold():
                name = f"operations/{(await queue(desk)).id}"
                asked = lro.DeleteOperationRequest(name=name)
                code = await refused(stub.DeleteOperation(asked))
                assert code is grpc.StatusCode.FAILED_PRECONDITION
            await stub.WaitOperation(lro.WaitOperationRequest(name=name), timeout=30)
            await stub.DeleteOperation(asked)
            code = await refused(stub.GetOperation(lro.GetOperationRequest(name=name)))
            assert code is grpc.StatusCode.NOT_FOUND
            page = await stub.ListOperations(lro.ListOperationsRequest(name="operations"))
            assert not page.operations
            assert await refused(stub.DeleteOperation(asked)) is grpc.StatusCode.NOT_FOUND
            assert await desk.jobs.events.read(IDENTITY, "0", 0) == []

    asyncio.run(talk())


def test_another_callers_job_is_none(desk: Desk) -> None:
    async def talk() -> None:
        async with talking(desk) as stub:
            name = f"operations/{(await queue(desk, 'bob')).id}"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetOperation(lro.GetOperationRequest(name=name))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(talk())
