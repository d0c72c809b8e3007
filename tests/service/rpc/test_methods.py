from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine
from unified_latents.service.engine.messages import Generate
from unified_latents.service.keys import KeyRing, create
from unified_latents.service.rpc.proto.ul_pb2 import (
    DecodeRequest,
    EncodeRequest,
    Event,
    GenerateRequest,
    GuidanceInterval,
    Interval,
    StageSampler,
    StageSteps,
)
from unified_latents.service.rpc.proto.ul_pb2_grpc import UnifiedLatentsStub

CIRCLE = GenerateRequest(label_name="CIRCLE", seed=5, n=2)


async def collect(call: Any) -> list[Event]:
    return [event async for event in call]


def kinds(events: list[Event]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def refused(bench: Any, method: str, request: Any, **options: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""

    async def talk(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
        call = getattr(UnifiedLatentsStub(channel), method)(request, **options)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call if method == "Encode" else collect(call))
        return caught.value

    error: grpc.aio.AioRpcError = bench.run(talk)
    return error


def test_generate_tells_its_events_and_one_item_a_sample(bench: Any) -> None:
    request = GenerateRequest(label_name="circle", seed=5, n=2, previews=1)
    events = bench.run(lambda channel: collect(UnifiedLatentsStub(channel).Generate(request)))
    assert kinds(events)[0] == "accepted"
    assert kinds(events)[-2:] == ["item", "item"]
    assert {"progress", "preview"} <= set(kinds(events))
    first, second = (event.item for event in events[-2:])
    assert [first.receipt.sample, second.receipt.sample] == [0, 1]
    assert first.media_type == "image/png"
    assert first.data.startswith(b"\x89PNG")
    assert first.receipt.sha256 == hashlib.sha256(first.data).hexdigest()


def test_bytes_and_receipt_are_those_of_http(bench: Any, client: TestClient) -> None:
    body = {"label": "circle", "seed": 5, "n": 2}
    items = client.post("/generate", json=body).json()["data"]
    events = bench.run(lambda channel: collect(UnifiedLatentsStub(channel).Generate(CIRCLE)))
    ours = [event.item for event in events if event.HasField("item")]
    assert [item.data for item in ours] == [base64.b64decode(item["b64"]) for item in items]
    for mine, other in zip(ours, items, strict=True):
        said = {field.name: value for field, value in mine.receipt.ListFields()}
        said |= {"sampler": dict(said["sampler"]), "steps": dict(said["steps"])}
        kept = {name: value for name, value in other["receipt"].items() if value is not None}
        assert {"sample": 0, "label": 0, **said} == kept


def test_all_that_a_request_says_reaches_the_engine(bench: Any, fake: FakeEngine) -> None:
    request = GenerateRequest(
        label_index=1,
        seed=2**53 - 1,
        steps=StageSteps(base=7, decode=3),
        sampler=StageSampler(base="ddim"),
        guidance=2.5,
        guidance_interval=GuidanceInterval(within=Interval(lo=-3, hi=0)),
        strict=False,
        priority="low",
    )
    bench.run(lambda channel: collect(UnifiedLatentsStub(channel).Generate(request)))
    [sent] = fake.requests
    assert isinstance(sent, Generate)
    assert (sent.label, sent.seed, sent.n) == (1, 2**53 - 1, 1)
    assert (sent.base.steps, sent.base.sampler) == (7, "ddim")
    assert sent.decode is not None
    assert (sent.decode.steps, sent.decode.sampler) == (3, "ancestral")
    assert (sent.guidance, sent.interval) == (2.5, (-3.0, 0.0))
    assert (sent.strict, sent.priority, sent.timeout) == (False, "low", None)


def test_no_class_and_no_interval_are_said_by_name(bench: Any, fake: FakeEngine) -> None:
    everywhere = GuidanceInterval(everywhere=True)
    request = GenerateRequest(unlabelled=True, guidance_interval=everywhere)
    bench.run(lambda channel: collect(UnifiedLatentsStub(channel).Generate(request)))
    [sent] = fake.requests
    assert isinstance(sent, Generate)
    assert (sent.label, sent.interval) == (2, None)


def test_a_picture_goes_through_its_latent(bench: Any, picture: Callable[..., bytes]) -> None:
    async def talk(channel: grpc.aio.Channel) -> Any:
        stub = UnifiedLatentsStub(channel)
        encoded = await stub.Encode(EncodeRequest(image=picture(), bitrate=True, levels=4))
        decode = DecodeRequest(latent=encoded.latent, seed=1, format="webp")
        return encoded, await collect(stub.Decode(decode))

    encoded, events = bench.run(talk)
    assert list(encoded.shape) == [1, 4, 2, 2]
    assert encoded.receipt.sha256 == hashlib.sha256(encoded.latent).hexdigest()
    assert encoded.bitrate.nats == 10
    assert encoded.bitrate.levels == 4
    assert kinds(events)[-1] == "item"
    assert events[-1].item.media_type == "image/webp"
    assert events[-1].item.receipt.input_sha256


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Generate", GenerateRequest(), "label"),
        ("Generate", GenerateRequest(label_name="none such"), "label"),
        ("Generate", GenerateRequest(label_index=0, n=65), "n"),
        ("Generate", GenerateRequest(label_index=0, n=0), "n"),
        ("Generate", GenerateRequest(label_index=0, seed=2**53), "seed"),
        ("Generate", GenerateRequest(label_index=0, steps=StageSteps(base=1001)), "steps.base"),
        ("Generate", GenerateRequest(label_index=0, guidance=float("nan")), "guidance"),
        ("Generate", GenerateRequest(label_index=0, frames=[b"x"]), "frames"),
        ("Generate", GenerateRequest(label_index=0, format="bmp"), "format"),
        ("Encode", EncodeRequest(), "image"),
        ("Encode", EncodeRequest(image=b"no picture"), "image"),
        ("Encode", EncodeRequest(image=b"x", levels=1025), "levels"),
        ("Decode", DecodeRequest(), "latent"),
        ("Decode", DecodeRequest(latent=b"no latent"), "header"),
    ],
)
def test_what_is_wrong_names_its_field(
    bench: Any, details: Callable[..., Any], method: str, request_: Any, field: str
) -> None:
    error = refused(bench, method, request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details(error)
    assert found["ErrorInfo"].reason == "INVALID_REQUEST"
    assert found["ErrorInfo"].metadata["request_id"] == found["trailing"]["x-request-id"]
    assert field in [each.field for each in found["BadRequest"].field_violations]
    assert bench.engine.requests == []


def test_the_limit_is_named_too(bench: Any, details: Callable[..., Any]) -> None:
    found = details(refused(bench, "Generate", GenerateRequest(label_index=0, n=65)))
    assert found["ErrorInfo"].metadata["limit"] == "64"
    assert "64" in found["BadRequest"].field_violations[0].description


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("other", "NOT_FOUND", "UNKNOWN_MODEL"),
        ("plain", "FAILED_PRECONDITION", "NO_BASE_MODEL"),
    ],
)
def test_models_that_cannot(
    bench: Any, details: Callable[..., Any], model: str, code: str, reason: str
) -> None:
    error = refused(bench, "Generate", GenerateRequest(model=model, label_index=0))
    assert error.code().name == code
    assert details(error)["ErrorInfo"].reason == reason


def test_keys_and_their_scopes_hold(
    make_bench: Callable[..., Any], picture: Callable[..., bytes], details: Callable[..., Any]
) -> None:
    secret, key = create("alice", ["encode"])
    bench = make_bench(KeyRing([key]))
    image = EncodeRequest(image=picture())
    assert refused(bench, "Encode", image).code() is grpc.StatusCode.UNAUTHENTICATED
    metadata = (("authorization", f"Bearer {secret}"), ("x-request-id", "mine"))
    error = refused(bench, "Generate", CIRCLE, metadata=metadata)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details(error)["ErrorInfo"].metadata["limit"] == "generate"
    assert details(error)["trailing"]["x-request-id"] == "mine"
    answer = bench.run(lambda channel: UnifiedLatentsStub(channel).Encode(image, metadata=metadata))
    assert answer.latent


def test_a_budget_holds_and_says_when_to_return(
    make_bench: Callable[..., Any], details: Callable[..., Any]
) -> None:
    secret, key = create("bob", ["generate"], budget=4)
    metadata = (("authorization", f"Bearer {secret}"),)
    error = refused(make_bench(KeyRing([key])), "Generate", CIRCLE, metadata=metadata)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["ErrorInfo"].reason == "BUDGET_EXCEEDED"
    assert details(error)["trailing"]["grpc-retry-pushback-ms"] == "-1"


def test_a_deadline_is_the_requests(bench: Any, fake: FakeEngine) -> None:
    with fake.hold():
        error = refused(bench, "Generate", CIRCLE, timeout=0.3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    [sent] = fake.requests
    assert sent.timeout is not None
    assert 0 < sent.timeout <= 0.301  # gRPC's deadlines are whole milliseconds, rounded up


def test_a_deadline_that_cannot_be_kept_is_refused_at_once(
    bench: Any, fake: FakeEngine, details: Callable[..., Any]
) -> None:
    fake.forecast = 100.0
    error = refused(bench, "Generate", CIRCLE, timeout=10)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["ErrorInfo"].reason == "DEADLINE_UNMET"
    assert fake.requests == []


def test_cancelling_a_call_cancels_its_work(bench: Any, fake: FakeEngine) -> None:
    async def talk(channel: grpc.aio.Channel) -> None:
        call = UnifiedLatentsStub(channel).Generate(CIRCLE)
        assert (await call.read()).HasField("accepted")
        assert len(fake.in_flight) == 1
        call.cancel()
        async with asyncio.timeout(30):
            while fake.in_flight:
                await asyncio.sleep(0.01)

    with fake.hold():
        bench.run(talk)
    assert len(fake.cancelled) == 1
    assert bench.service.admission.queued == 0


def test_a_service_that_drains_takes_nothing(bench: Any, details: Callable[..., Any]) -> None:
    bench.service.draining = True
    error = refused(bench, "Generate", CIRCLE)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["ErrorInfo"].reason == "SHUTTING_DOWN"
    assert details(error)["RetryInfo"].retry_delay.ToMilliseconds() > 0


def test_a_message_over_the_limit_is_not_read(bench: Any) -> None:
    error = refused(bench, "Encode", EncodeRequest(image=bytes(65 * 1024)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
