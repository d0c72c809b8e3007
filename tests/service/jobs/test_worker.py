from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from redis import Redis

from tests.service.bucket import Bucket
from tests.service.jobs.conftest import Saying, generate
from unified_latents.service.engine.messages import Array, Decode, Trajectory
from unified_latents.service.jobs.calls import Call
from unified_latents.service.jobs.job import STARTS
from unified_latents.service.jobs.queue import FinishedError


def test_a_job_ends_with_the_answer_of_the_same_call(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk()
        async with here.open() as jobs:
            first = await here.end((await here.submit("one", generate(7, n=3))).id)
            second = await here.end((await here.submit("two", generate(7, n=3))).id)
            assert (first.state, first.attempts, first.progress.done) == ("succeeded", 1, 1)
            assert first.outcome == second.outcome
            assert first.outcome is not None
            answer = await jobs.objects.get("answers", first.outcome.sha256)
            assert len(msgspec.json.decode(answer)["data"]) == 3
            assert {request.priority for request in here.engine.requests} == {"low"}

    run(body)


def test_a_large_input_travels_as_an_object(run: Callable[..., None], desk: Any, url: str) -> None:
    async def body() -> None:
        here = desk()
        z = Array((64, 4, 2, 2), "float32", bytes(64 * 64))
        message = Decode(0, "fake", True, 1, 0, z, "z_0", Trajectory(4, "ancestral"))
        async with here.open():
            job = await here.submit("large", Call(message, "png", bare=False))
            assert job.spec.call is None
            with Redis.from_url(url) as client:
                assert client.memory_usage(f"ul:jobs:{job.id}") < 2048
            assert (await here.end(job.id)).state == "succeeded"

    run(body)


def test_a_job_keeps_all_that_is_large_in_a_bucket(
    run: Callable[..., None], desk: Any, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves its answer and its mark there: no snapshot of what is done."""

    async def body() -> None:
        z = Array((64, 4, 2, 2), "float32", bytes(64 * 64))
        message = Decode(0, "fake", True, 1, 0, z, "z_0", Trajectory(4, "ancestral"))
        here = desk(objects=bucket.empty(monkeypatch))
        async with here.open() as jobs:
            job = await here.submit("in a bucket", Call(message, "png", bare=False))
            ended = await here.end(job.id)
            assert ended.outcome is not None
            answer = await jobs.objects.get("answers", ended.outcome.sha256)
            assert len(answer) == ended.outcome.size
        names = {f"inputs/{job.spec.input}", f"answers/{ended.outcome.sha256}", f"done/{job.id}"}
        assert bucket.names() == names

    run(body)


def test_an_input_that_is_gone_or_damaged_fails_the_job(
    run: Callable[..., None], desk: Any, tmp_path: Any
) -> None:
    async def body() -> None:
        z = Array((64, 4, 2, 2), "float32", bytes(64 * 64))
        message = Decode(0, "fake", True, 1, 0, z, "z_0", Trajectory(4, "ancestral"))
        writer = desk(job_slots=0)
        async with writer.open():
            gone = await writer.submit("gone", Call(message, "png", bare=False))
            damaged = await writer.submit("damaged", Call(message, "webp", bare=False))
        (tmp_path / "objects" / "inputs" / str(gone.spec.input)).unlink()
        (tmp_path / "objects" / "inputs" / str(damaged.spec.input)).write_bytes(b"\x00")
        here = desk()
        async with here.open():
            reasons = [(await here.end(job.id)).reason for job in (gone, damaged)]
        assert [r.code for r in reasons if r] == ["input_expired", "input_damaged"]

    run(body)


def test_cancelling_what_runs_stops_it(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk()
        async with here.open() as jobs:
            with here.engine.hold():
                job = await here.submit("runs")
                await here.started(job.id)
                cancelled = await jobs.queue.cancel(job.id, "")
                assert cancelled.cancelling or cancelled.state == "cancelled"
                ended = await here.end(job.id)
                assert here.engine.cancelled
            assert ended.state == "cancelled"
            with pytest.raises(FinishedError):
                await jobs.queue.cancel(job.id, "")

    run(body)


def test_a_cancellation_that_nobody_heard_is_found(
    run: Callable[..., None], desk: Any, url: str
) -> None:
    """Only the mark, not the message: seen before the first step."""

    async def body() -> None:
        writer = desk(job_slots=0)
        async with writer.open():
            job = await writer.submit("silent")
        with Redis.from_url(url) as client:
            client.hset(f"ul:jobs:{job.id}", "ul:cancel", "1")
        here = desk()
        async with here.open():
            await here.until(job.id, lambda job: job.finished is not None)
            assert here.engine.requests == []

    run(body)


def test_what_is_done_cannot_be_cancelled(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk()
        async with here.open() as jobs:
            job = await here.end((await here.submit("done")).id)
            with pytest.raises(FinishedError):
                await jobs.queue.cancel(job.id, "")
            assert (await jobs.queue.get(job.id, "")).outcome == job.outcome

    run(body)


def test_a_deadline_ends_what_waits_and_what_runs(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk(job_slots=1)
        async with here.open():
            with here.engine.hold():
                running = await here.submit("runs", deadline=0.5)
                waiting = await here.submit("waits", deadline=0.1)
                ended = [await here.end(job.id) for job in (running, waiting)]
        assert [job.state for job in ended] == ["failed"] * 2
        assert {job.reason.code for job in ended if job.reason} == {"deadline_exceeded"}

    run(body)


def test_draining_hands_back_without_an_attempt(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        first = desk()
        async with first.open() as jobs:
            with first.engine.hold():
                job = await first.submit("handed back")
                await first.started(job.id)
                await jobs.stop(grace=0.1)
        assert first.metrics.job_redeliveries.labels("drain")._value.get() == 1
        second = desk()
        async with second.open():
            ended = await second.end(job.id)
        assert (ended.state, ended.attempts) == ("succeeded", 1)

    run(body)


def test_draining_lets_finish_what_is_nearly_done(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        here = desk()
        async with here.open() as jobs:
            with here.engine.hold():
                job = await here.submit("nearly")
                await here.started(job.id)
                await jobs.retire()
                late = await here.submit("too late")
            ended = await here.end(job.id)
            assert ended.state == "succeeded"
            assert (await jobs.queue.get(late.id, "")).state == "queued"

    run(body)


def test_a_job_longer_than_its_lease_runs_once(run: Callable[..., None], desk: Any) -> None:
    async def body() -> None:
        first, second = desk(job_lease=0.4, job_renewal=0.1), desk(job_lease=0.4, job_renewal=0.1)
        async with first.open(), second.open():
            with first.engine.hold(), second.engine.hold():
                job = await first.submit("long")
                await first.until(job.id, lambda job: job.state == "running")
                await asyncio.sleep(5 * 0.4)  # it is the clock that is tested
            ended = await first.end(job.id)
        assert (ended.state, ended.attempts) == ("succeeded", 1)
        assert len(first.engine.requests) + len(second.engine.requests) == 1

    run(body)


def test_what_is_done_is_not_run_again(run: Callable[..., None], desk: Any, url: str) -> None:
    """The store forgot the end, or never heard of it: the answer lies in the object store."""

    async def body() -> None:
        here = desk()
        async with here.open():
            job = await here.end((await here.submit("once")).id)
            with Redis.from_url(url) as client:
                client.zrem("ul:jobs:completed", job.id)
                client.hdel(f"ul:jobs:{job.id}", "returnvalue", "finishedOn", "atm")
                client.lpush("ul:jobs:active", job.id)
            again = await here.end(job.id)
        assert again.outcome == job.outcome
        assert len(here.engine.requests) == 1

    run(body)


@pytest.mark.parametrize(
    ("code", "times"), [("nonfinite", 1), ("engine_lost", 1), ("engine_error", STARTS)]
)
def test_errors_that_would_come_again_are_not_tried_again(
    run: Callable[..., None], desk: Any, code: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "unified_latents.service.jobs.queue._BACKOFF", {"type": "fixed", "delay": 20}
    )

    async def body() -> None:
        here = desk()
        async with here.open() as jobs:
            real = here.engine.submit
            engine = Saying(here.engine, code)
            ended = await here.end((await here.submit("fails")).id)
            assert ended.reason is not None
            assert (ended.reason.code, ended.attempts, engine.times) == (code, times, times)
            here.engine.submit = real
            assert (await jobs.queue.redrive(ended.id)).state in ("queued", "running", "succeeded")
            again = await here.end(ended.id)
            assert (again.state, again.attempts, again.reason) == ("succeeded", 1, None)

    run(body)


def test_an_engine_that_is_gone_keeps_the_job_in_the_queue(
    run: Callable[..., None], desk: Any
) -> None:
    async def body() -> None:
        here = desk()
        async with here.open():
            with here.engine.hold():
                job = await here.submit("stays")
                await here.started(job.id)
                await here.engine.stop()
                held = await here.until(job.id, lambda job: job.state == "queued")
        assert held.attempts == 0
        second = desk()
        async with second.open():
            assert (await second.end(job.id)).state == "succeeded"

    run(body)
