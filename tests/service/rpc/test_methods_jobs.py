"""A generated client and jobs: submit, wait, read, cancel, delete, on a real store."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.rpc.code_pb2 import CANCELLED, DEADLINE_EXCEEDED
from starlette.testclient import TestClient

from tests.service.jobs.conftest import Desk, start_store
from unified_latents.service.http.core import Service
from unified_latents.service.jobs.connection import StoreDownError
from unified_latents.service.jobs.server import find_server
from unified_latents.service.keys import KeyRing, create
from unified_latents.service.rpc.proto.ul_pb2 import (
    DecodeRequest,
    EncodeRequest,
    GenerateRequest,
    JobAnswer,
    JobMetadata,
    ReadAnswerRequest,
    SubmitRequest,
)
from unified_latents.service.rpc.proto.ul_pb2_grpc import UnifiedLatentsStub
from unified_latents.service.rpc.server import RpcServer
from unified_latents.service.settings import Settings

CIRCLE = GenerateRequest(label_name="circle", seed=5)
SECRET, KEY = create("me", ["jobs", "generate"], 30)
WEAK, HALF = create("weak", ["jobs"])
NO_JOBS, PLAIN = create("plain", ["generate"])
LATENT = "application/vnd.ul.latent+safetensors"


class Client(NamedTuple):
    """What is generated from the two contracts."""

    ul: Any
    operations: Any

    async def ended(self, operation: lro.Operation) -> lro.Operation:
        asked = lro.WaitOperationRequest(name=operation.name)
        ended: lro.Operation = await self.operations.WaitOperation(asked, timeout=30)
        assert ended.done
        return ended

    async def read(self, operation: lro.Operation, offset: int = 0) -> bytes:
        asked = ReadAnswerRequest(name=operation.name, offset=offset)
        return b"".join([part.data async for part in self.ul.ReadAnswer(asked)])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    process = start_store(tmp_path, find_server())
    yield Desk(f"unix://{tmp_path / 's'}", tmp_path)
    process.terminate()
    process.wait(10)


@asynccontextmanager
async def talking(desk: Desk, *keys: Any, **settings: Any) -> AsyncIterator[Client]:
    async with desk.open() as jobs:
        service = Service(Settings(**settings), desk.engine, desk.metrics, KeyRing(keys), jobs)
        server = RpcServer(service)
        port = await server.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Client(UnifiedLatentsStub(channel), OperationsStub(channel))
        await server.stop(0)


def answer_of(operation: lro.Operation) -> JobAnswer:
    answer = JobAnswer()
    assert operation.response.Unpack(answer)
    return answer


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_a_job_is_submitted_waited_for_read_and_deleted(desk: Desk, client: TestClient) -> None:
    """Its bytes are those of HTTP."""
    body = {"label": "circle", "seed": 5}
    plain = client.post("/generate", json=body, headers={"accept": "image/png"})

    async def talk() -> None:
        async with talking(desk) as ours:
            asked = SubmitRequest(generate=CIRCLE, priority=3, accept="image/png")
            submitted = await ours.ul.Submit(asked)
            metadata = JobMetadata()
            assert submitted.metadata.Unpack(metadata)
            assert (metadata.kind, metadata.model) == ("generate", "fake")
            ended = await ours.ended(submitted)
            answer, data = answer_of(ended), await ours.read(ended)
            assert data == plain.content
            assert (answer.media_type, answer.size) == ("image/png", len(data))
            assert answer.sha256 == hashlib.sha256(data).hexdigest()
            receipt = json.loads(answer.headers["ul-receipt"])
            assert receipt == json.loads(plain.headers["ul-receipt"])
            assert await ours.read(ended, offset=7) == data[7:]
            assert await ours.read(ended, offset=len(data)) == b""
            beyond = await refusal(ours.read(ended, offset=len(data) + 1))
            assert beyond.code() is grpc.StatusCode.OUT_OF_RANGE
            job = await desk.jobs.queue.get(ended.name.removeprefix("operations/"), "anonymous")
            assert job.priority == 3
            await ours.operations.DeleteOperation(lro.DeleteOperationRequest(name=ended.name))
            gone = await refusal(ours.read(ended))
            assert gone.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(talk())


def test_all_three_calls_become_jobs(desk: Desk, picture: Callable[..., bytes]) -> None:
    async def talk() -> None:
        async with talking(desk) as ours:
            encode = SubmitRequest(encode=EncodeRequest(image=picture()), accept=LATENT)
            encoded = await ours.ended(await ours.ul.Submit(encode))
            assert answer_of(encoded).media_type == LATENT
            latent = await ours.read(encoded)
            decode = SubmitRequest(decode=DecodeRequest(latent=latent, seed=1, format="webp"))
            decoded = await ours.ended(await ours.ul.Submit(decode))
            assert (await ours.read(decoded))[8:12] == b"WEBP"
            generated = await ours.ended(await ours.ul.Submit(SubmitRequest(generate=CIRCLE)))
            body = json.loads(await ours.read(generated))
            assert body["data"][0]["receipt"]["operation"] == "generate"
            listed = await ours.operations.ListOperations(lro.ListOperationsRequest())
            assert {each.name for each in listed.operations} == {
                encoded.name, decoded.name, generated.name,
            }  # fmt: skip

    asyncio.run(talk())


def test_a_job_is_cancelled_and_one_is_late(desk: Desk) -> None:
    async def talk() -> None:
        async with talking(desk) as ours:
            with desk.engine.hold():
                one = await ours.ul.Submit(SubmitRequest(generate=CIRCLE))
                early = await refusal(ours.read(one))
                assert early.code() is grpc.StatusCode.FAILED_PRECONDITION
                await ours.operations.CancelOperation(lro.CancelOperationRequest(name=one.name))
                assert (await ours.ended(one)).error.code == CANCELLED
                late = SubmitRequest(generate=CIRCLE)
                late.deadline.FromMilliseconds(200)
                ended = await ours.ended(await ours.ul.Submit(late))
                assert ended.error.code == DEADLINE_EXCEEDED
                assert (await refusal(ours.read(ended))).code() is (
                    grpc.StatusCode.FAILED_PRECONDITION
                )

    asyncio.run(talk())


def test_a_key_of_idempotency_is_one_job(desk: Desk, details: Callable[..., Any]) -> None:
    async def talk() -> None:
        async with talking(desk) as ours:
            asked = SubmitRequest(generate=CIRCLE, idempotency_key="mine")
            made = await asyncio.gather(*(ours.ul.Submit(asked) for _ in range(20)))
            assert len({operation.name for operation in made}) == 1
            other = SubmitRequest(generate=CIRCLE, idempotency_key="mine", priority=1)
            error = await refusal(ours.ul.Submit(other))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert details(error)["ErrorInfo"].reason == "IDEMPOTENCY_MISMATCH"
            assert len(desk.engine.requests) <= 1

    asyncio.run(talk())


WRONG: dict[str, tuple[SubmitRequest, str]] = {
    "nothing": (SubmitRequest(), "call"),
    "no label": (SubmitRequest(generate=GenerateRequest()), "label"),
    "an unknown label": (SubmitRequest(generate=GenerateRequest(label_name="x")), "label"),
    "too many": (SubmitRequest(generate=GenerateRequest(label_index=0, n=1000)), "n"),
    "previews": (SubmitRequest(decode=DecodeRequest(previews=1)), "previews"),
    "no latent": (SubmitRequest(decode=DecodeRequest()), "latent"),
    "no picture": (SubmitRequest(encode=EncodeRequest(image=b"x")), "image"),
    "priority 0": (SubmitRequest(generate=CIRCLE, priority=0), "priority"),
    "priority 11": (SubmitRequest(generate=CIRCLE, priority=11), "priority"),
    "a long key": (SubmitRequest(generate=CIRCLE, idempotency_key="x" * 256), "Idempotency-Key"),
    "a webhook": (SubmitRequest(generate=CIRCLE, webhook="https://example.org/"), "webhook"),
    "no form": (SubmitRequest(generate=CIRCLE, accept="text/plain"), "Accept"),
}


def test_what_is_wrong_is_named(desk: Desk, details: Callable[..., Any]) -> None:
    never = SubmitRequest(generate=CIRCLE)
    never.deadline.FromSeconds(0)
    long = SubmitRequest(generate=CIRCLE)
    long.deadline.FromSeconds(8 * 86_400)
    endless = SubmitRequest(generate=CIRCLE)
    endless.deadline.seconds = 2**62
    cases = {**WRONG, "no time": (never, "deadline"), "a long time": (long, "deadline")}
    cases["no end"] = (endless, "deadline")

    async def talk() -> None:
        async with talking(desk) as ours:
            for name, (request, field) in cases.items():
                error = await refusal(ours.ul.Submit(request))
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, name
                fields = [found.field for found in details(error)["BadRequest"].field_violations]
                assert fields[0] == field, name
            error = await refusal(ours.read(lro.Operation(name="jobs/1")))
            assert details(error)["BadRequest"].field_violations[0].field == "name"
            assert not desk.engine.requests

    asyncio.run(talk())


def test_keys_scopes_and_budgets_are_those_of_http(desk: Desk, details: Callable[..., Any]) -> None:
    async def talk() -> None:
        async with talking(desk, KEY, HALF, PLAIN) as ours:
            asked = SubmitRequest(generate=CIRCLE)

            async def by(secret: str, request: SubmitRequest = asked) -> Any:
                metadata = (("authorization", f"Bearer {secret}"),)
                return await ours.ul.Submit(request, metadata=metadata)

            unknown = await refusal(ours.ul.Submit(asked))
            assert unknown.code() is grpc.StatusCode.UNAUTHENTICATED
            for secret in (WEAK, NO_JOBS):
                assert (await refusal(by(secret))).code() is grpc.StatusCode.PERMISSION_DENIED
            urgent = SubmitRequest(generate=GenerateRequest(label_index=0, priority="high"))
            assert (await refusal(by(SECRET, urgent))).code() is grpc.StatusCode.PERMISSION_DENIED
            mine = await by(SECRET)
            await by(SECRET)
            spent = await refusal(by(SECRET))
            assert spent.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details(spent)["ErrorInfo"].reason == "BUDGET_EXCEEDED"
            assert "RetryInfo" in details(spent)
            theirs = ours.ul.ReadAnswer(
                ReadAnswerRequest(name=mine.name), metadata=(("authorization", f"Bearer {WEAK}"),)
            )
            assert (await refusal(theirs.read())).code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(talk())


def test_a_full_queue_and_a_store_that_is_gone(
    desk: Desk, details: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object, **__: object) -> None:
        raise StoreDownError("gone")

    async def talk() -> None:
        async with talking(desk, max_jobs=1) as ours:
            with desk.engine.hold():
                many = (ours.ul.Submit(SubmitRequest(generate=CIRCLE)) for _ in range(20))
                ends = await asyncio.gather(*many, return_exceptions=True)
                refused = [each for each in ends if isinstance(each, grpc.aio.AioRpcError)]
                assert {details(each)["ErrorInfo"].reason for each in refused} == {"JOBS_FULL"}
                assert {each.code() for each in refused} == {grpc.StatusCode.UNAVAILABLE}
                monkeypatch.setattr(desk.jobs.queue, "counts", gone)
                error = await refusal(ours.ul.Submit(SubmitRequest(generate=CIRCLE)))
                assert details(error)["ErrorInfo"].reason == "JOBS_UNAVAILABLE"

    asyncio.run(talk())
