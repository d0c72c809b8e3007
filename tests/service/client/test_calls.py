from __future__ import annotations

import json
from typing import Any

import pytest

from unified_latents.service.client import calls
from unified_latents.service.client.calls import Answer, Ask, Dialogue, Pause
from unified_latents.service.client.errors import JobError, ProblemError, UnreachableError
from unified_latents.service.client.results import Job
from unified_latents.service.client.retry import Retries

RETRIES = Retries(attempts=3)
BUSY = Answer(503, {"retry-after-ms": "250"}, b'{"code": "busy", "detail": "full"}')
LOST = Answer(None, fault="connection reset")


def play(dialogue: Dialogue[Any], *answers: Answer) -> tuple[Any, list[Ask], list[float]]:
    """The end of a dialogue that gets these answers, what it asked, and how long it paused."""
    asks, pauses, left = list[Ask](), list[float](), list(answers)
    try:
        step = next(dialogue)
        while True:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                step = dialogue.send(Answer(None))
            else:
                asks.append(step)
                step = dialogue.send(left.pop(0))
    except StopIteration as end:
        assert not left
        return end.value, asks, pauses


def view(state: str = "running", done: int = 1, **more: Any) -> dict[str, Any]:
    """A job as the service shows it."""
    return {
        "id": "job_1",
        "kind": "generate",
        "state": state,
        "progress": {"done": done, "steps": 4, "stage": "base", "eta": None},
        "attempts": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "reason": None,
        "answer": None,
        **more,
    }


def ok(body: Any, **headers: str) -> Answer:
    return Answer(200, {"content-type": "application/json", **headers}, json.dumps(body).encode())


def test_asking_again_asks_for_the_same() -> None:
    pictures, asks, pauses = play(
        calls.generate(RETRIES, "sneaker", n=2), LOST, BUSY, ok({"data": []})
    )
    assert pictures == []
    assert asks[0] == asks[1] == asks[2]
    body = json.loads(asks[0].content)
    assert {"label", "n", "seed"} == set(body)
    assert pauses[1] == 0.25


def test_two_calls_draw_two_seeds() -> None:
    seeds = {
        json.loads(play(calls.generate(RETRIES, 0), ok({"data": []}))[1][0].content)["seed"]
        for _ in range(8)
    }
    assert len(seeds) == 8


def test_a_job_is_asked_for_under_one_key() -> None:
    job, asks, _ = play(
        calls.submit(RETRIES, "encode", {"image": b"abc"}, None, priority=3), LOST, ok(view())
    )
    assert job.id == "job_1"
    assert asks[0] == asks[1]
    assert len(asks[0].headers["Idempotency-Key"]) == 32
    assert json.loads(asks[0].content) == {
        "kind": "encode",
        "request": {"image": "YWJj"},
        "priority": 3,
    }


def test_a_problem_keeps_its_fields() -> None:
    body = {
        "code": "invalid_request",
        "detail": "n: must be at most 64",
        "errors": [{"field": "n", "message": "must be at most 64", "limit": 64}],
        "request_id": "r1",
    }
    with pytest.raises(ProblemError, match="422 invalid_request: n: must be") as caught:
        play(calls.generate(RETRIES, 0, n=99), Answer(422, {}, json.dumps(body).encode()))
    assert caught.value.errors[0]["limit"] == 64
    assert caught.value.request_id == "r1"


def test_an_error_of_someone_in_between_is_still_one() -> None:
    with pytest.raises(ProblemError, match="404 http_error: <html>"):
        play(calls.models(RETRIES), Answer(404, {}, b"<html>"))


def test_no_answer_at_all_is_said_after_the_last_attempt() -> None:
    with pytest.raises(UnreachableError, match="connection reset"):
        play(calls.models(RETRIES), LOST, LOST, LOST)


def test_waiting_reports_each_change_once() -> None:
    seen: list[Job] = []
    done, _, pauses = play(
        calls.wait(RETRIES, "job_1", None, seen.append),
        ok(view("queued", 0), **{"openai-poll-after-ms": "300"}),
        ok(view("running", 1)),
        ok(view("running", 1)),
        ok(view("succeeded", 4)),
    )
    assert done.state == "succeeded"
    assert [job.done for job in seen] == [0, 1, 4]
    assert pauses == [0.3, 0.5, 0.5]


def test_a_job_without_an_answer_says_why() -> None:
    reason = {"code": "engine_lost", "detail": "three engines died"}
    with pytest.raises(JobError, match="job_1 failed: engine_lost: three") as caught:
        play(calls.wait(RETRIES, "job_1", None, None), ok(view("failed", reason=reason)))
    assert caught.value.code == "engine_lost"


def test_waiting_ends_in_time() -> None:
    with pytest.raises(TimeoutError, match="job_1 is running, 1 of 4 steps"):
        play(calls.wait(RETRIES, "job_1", 0.1, None), ok(view()))


def test_a_file_is_handed_on_as_it_is() -> None:
    film = Answer(200, {"content-type": "video/mp4"}, b"\0\1")
    assert play(calls.result(RETRIES, "job_1"), film)[0] == b"\0\1"


def test_what_is_no_picture_is_not_sent() -> None:
    with pytest.raises(ValueError, match="PNG, JPEG or WebP"):
        play(calls.encode(RETRIES, b"GIF89a"))
