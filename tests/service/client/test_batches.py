from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.client.test_calls import LOST, RETRIES, ok, play
from tests.service.conftest import LiveServer
from unified_latents.service.client import AsyncClient, Batch, Client, JobError, batches

REQUEST = {"model": "tiny", "label": "square"}


@pytest.fixture(scope="module")
def ul(live: LiveServer) -> Iterator[Client]:
    with Client(live.url) as client:
        yield client


def rows(*seeds: int) -> Iterator[dict[str, Any]]:
    """One picture each."""
    for seed in seeds:
        yield {"custom_id": f"s{seed}", "kind": "generate", "request": {**REQUEST, "seed": seed}}


def view(state: str = "running", ended: int = 1, **more: Any) -> dict[str, Any]:
    """A batch as the service shows it."""
    counts = {"total": 3, "ended": ended, "failed": 0}
    return {"id": "batch_1", "state": state, "rows": counts, "reason": None, **more}


def test_rows_come_out_in_order_with_the_answers_of_the_calls(ul: Client) -> None:
    bad = {"custom_id": "bad", "kind": "generate", "request": {"label": "no such label"}}
    seen: list[int] = []
    batch = ul.submit_batch([*rows(3, 4), bad, *rows(5)], key="a-batch")
    assert ul.submit_batch([*rows(3, 4), bad, *rows(5)], key="a-batch").id == batch.id
    done = ul.wait_batch(batch, timeout=120, on_progress=lambda batch: seen.append(batch.done))
    assert (done.rows, done.done, done.failed, seen) == (4, 4, 1, sorted(seen))
    found = ul.output(batch)
    assert [(row.index, row.custom_id, row.status) for row in found] == [
        *((0, "s3", 200), (1, "s4", 200), (2, "bad", 422), (3, "s5", 200))
    ]
    assert found[2].error is not None
    assert found[2].error["errors"][0]["field"] == "label"
    assert found[3].job is not None
    assert ul.result(found[3].job) == ul.generate("square", seed=5, model="tiny")


def test_the_other_client_does_the_same(live: LiveServer) -> None:
    async def body() -> None:
        async with AsyncClient(live.url) as client:
            batch = await client.submit_batch(batches.lines(rows(1, 2)))
            await client.wait_batch(batch, timeout=120)
            assert (await client.batch(batch.id)).state == "succeeded"
            assert [row.custom_id for row in await client.output(batch)] == ["s1", "s2"]

    asyncio.run(body())


def test_a_cancelled_batch_is_an_error_to_who_waits(ul: Client) -> None:
    slow = {**REQUEST, "steps": {"base": 1000, "decode": 1000}, "n": 8}
    batch = ul.submit_batch([{"custom_id": "slow", "kind": "generate", "request": slow}])
    ul.cancel_batch(batch)
    with pytest.raises(JobError, match="cancelled"):
        ul.wait_batch(batch, timeout=120)


def test_a_batch_is_asked_for_under_one_key_with_files_as_base64() -> None:
    row = {"custom_id": "a", "kind": "encode", "request": {"image": b"abc"}}
    batch, asks, _ = play(batches.submit(RETRIES, [row], None), LOST, ok(view()))
    assert batch == Batch("batch_1", "running", 3, 1, 0, None)
    assert asks[0] == asks[1]
    assert len(asks[0].headers["Idempotency-Key"]) == 32
    assert json.loads(asks[0].content)["request"] == {"image": "YWJj"}


def test_waiting_reports_each_change_once_and_ends_in_time() -> None:
    seen: list[Batch] = []
    with pytest.raises(TimeoutError, match="batch_1 is running, 2 of 3 rows"):
        play(
            batches.wait(RETRIES, "batch_1", 0.9, seen.append),
            *(ok(view("running", 1)), ok(view("running", 2))),
            *(ok(view("running", 2), **{"openai-poll-after-ms": "2000"}),),
        )
    assert [batch.done for batch in seen] == [1, 2]
