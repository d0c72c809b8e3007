from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from tests.service.jobs.conftest import Desk, Saying
from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app

REQUEST = {"label": "circle", "seed": 4}


@pytest.fixture
def client(open_desk: Callable[..., tuple[TestClient, FakeEngine]]) -> TestClient:
    return open_desk()[0]


def finished(client: TestClient, path: str) -> Any:
    """The job when it has ended."""
    for _ in range(1000):
        job = client.get(path).json()
        if job["finished_at"] or job["state"] in ("failed", "cancelled"):
            return job
        time.sleep(0.01)
    raise AssertionError(job)


def told(text: str) -> list[tuple[str, str, Any]]:
    """The events of a stream: id, kind, data."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def test_a_call_becomes_a_job_with_the_same_answer(client: TestClient) -> None:
    headers = {"accept": "image/png"}
    at_once = client.post("/generate", json=REQUEST, headers=headers)
    later = client.post("/generate", json=REQUEST, headers={**headers, "prefer": "respond-async"})
    assert later.status_code == 202
    assert later.headers["preference-applied"] == "respond-async"
    assert later.headers["retry-after"] == "1"
    path = later.headers["location"]
    job = finished(client, path)
    assert (job["state"], job["kind"], job["attempts"]) == ("succeeded", "generate", 1)
    assert job["progress"]["eta"] is None
    result = client.get(f"{path}/result")
    assert result.content == at_once.content
    for name in ("content-type", "ul-seed", "ul-receipt"):
        assert result.headers[name] == at_once.headers[name]
    assert result.headers["etag"] == f'"{job["answer"]["sha256"]}"'


def test_every_call_can_be_a_job(client: TestClient, picture: Callable[..., bytes]) -> None:
    image = base64.b64encode(picture()).decode()
    encoded = client.post("/jobs", json={"kind": "encode", "request": {"image": image, "seed": 1}})
    assert finished(client, encoded.headers["location"])["state"] == "succeeded"
    latent = client.get(encoded.headers["location"] + "/result").json()["latent"]
    body = {"kind": "decode", "request": {"latent": latent}, "accept": "image/webp"}
    decoded = client.post("/jobs", json=body)
    assert finished(client, decoded.headers["location"])["state"] == "succeeded"
    result = client.get(decoded.headers["location"] + "/result")
    assert result.headers["content-type"] == "image/webp"
    prefer = {"prefer": "respond-async", "content-type": "image/png"}
    assert client.post("/encode", content=picture(), headers=prefer).status_code == 202
    form = client.post("/encode", files={"image": picture()}, headers={"prefer": "respond-async"})
    assert form.status_code == 202


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"priority": 0}, "generate.priority"),
        ({"priority": 11}, "generate.priority"),
        ({"deadline": -1}, "generate.deadline"),
        ({"deadline": 1e9}, "generate.deadline"),
        ({"request": {"label": "circle", "n": 0}}, "generate.request.n"),
        ({"kind": "dream"}, "body"),
        ({"surprise": 1}, "generate.surprise"),
    ],
)
def test_a_bad_job_names_its_field(
    client: TestClient, check_problem: Callable[..., Any], change: Any, field: str
) -> None:
    body = {"kind": "generate", "request": REQUEST, **change}
    check_problem(client.post("/jobs", json=body), 422, field)


def test_webhooks_need_a_secret_and_a_public_url(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], check_problem: Callable[..., Any]
) -> None:
    plain, _ = open_desk()
    body = {"kind": "generate", "request": REQUEST, "webhook": "https://example.org/hook"}
    check_problem(plain.post("/jobs", json=body), 422, "webhook")
    client, _ = open_desk(webhook_secrets="whsec_" + "A" * 32, job_slots=0)
    job = client.post("/jobs", json=body).json()
    assert (job["webhook"]["state"], job["webhook"]["attempts"]) == ("pending", 0)
    for url in ("http://example.org/", "https://127.0.0.1/", "https://169.254.169.254/", "x"):
        check_problem(client.post("/jobs", json={**body, "webhook": url}), 422, "webhook")


def test_a_key_stands_for_one_request(
    client: TestClient, check_problem: Callable[..., Any]
) -> None:
    body = {"kind": "generate", "request": {"label": "circle"}}
    headers = {"idempotency-key": "a-key"}

    def ask(_: int) -> Any:
        return client.post("/jobs", json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/jobs").json()["jobs"]) == 1
    other = client.post("/jobs", json={**body, "priority": 1}, headers=headers)
    check_problem(other, 409, "Idempotency-Key")
    assert (
        client.post("/jobs", json=body, headers={"idempotency-key": "two words"}).status_code == 422
    )


def test_events_tell_a_job_from_start_to_end(client: TestClient) -> None:
    path = client.post("/jobs", json={"kind": "generate", "request": REQUEST}).headers["location"]
    stream = client.get(f"{path}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = told(stream.text)
    kinds = [kind for _, kind, _ in events]
    assert (kinds[0], kinds[-1]) == ("running", "succeeded")
    done = [data["done"] for _, kind, data in events if kind == "progress"]
    assert done == sorted(done)
    for cut, (identity, _, _) in enumerate(events[:-1]):
        again = client.get(f"{path}/events", headers={"last-event-id": identity})
        assert told(again.text) == events[cut + 1 :]
    assert client.get(f"{path}/events", headers={"last-event-id": "end"}).status_code == 204


def test_a_range_of_the_answer(client: TestClient, check_problem: Callable[..., Any]) -> None:
    body = {"kind": "generate", "request": REQUEST, "accept": "image/png"}
    path = client.post("/jobs", json=body).headers["location"]
    finished(client, path)
    whole = client.get(f"{path}/result")
    size = len(whole.content)
    part = client.get(f"{path}/result", headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{size}"
    check_problem(client.get(f"{path}/result", headers={"range": f"bytes={size}-"}), 416, "Range")
    stale = {"range": "bytes=2-5", "if-range": '"other"'}
    assert client.get(f"{path}/result", headers=stale).content == whole.content
    fresh = client.get(f"{path}/result", headers={"if-none-match": whole.headers["etag"]})
    assert fresh.status_code == 304


def test_cancelling(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], check_problem: Callable[..., Any]
) -> None:
    client, engine = open_desk()
    body = {"kind": "generate", "request": REQUEST}
    with engine.hold():
        path = client.post("/jobs", json=body).headers["location"]
        early = check_problem(client.get(f"{path}/result"), 409)
        assert early["code"] == "job_not_finished"
        assert client.delete(path).status_code in (200, 202)
        assert finished(client, path)["state"] == "cancelled"
    assert client.delete(path).status_code == 200
    late = check_problem(client.get(f"{path}/result"), 409)
    assert late["code"] == "job_cancelled"
    path = client.post("/jobs", json=body).headers["location"]
    finished(client, path)
    assert check_problem(client.delete(path), 409)["code"] == "job_finished"


def test_a_job_that_failed_is_driven_again(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], check_problem: Callable[..., Any]
) -> None:
    client, engine = open_desk()
    real = engine.submit
    Saying(engine, "nonfinite")
    path = client.post("/jobs", json={"kind": "generate", "request": REQUEST}).headers["location"]
    assert finished(client, path)["reason"] == {"code": "nonfinite", "detail": "as told"}
    engine.submit = real  # type: ignore[method-assign]
    assert client.post(f"/admin{path}/redrive").status_code == 200
    assert finished(client, path)["state"] == "succeeded"
    again = check_problem(client.post(f"/admin{path}/redrive"), 409)
    assert again["code"] == "job_not_failed"
    assert client.post(f"/admin/jobs/job_{'0' * 32}/redrive").status_code == 404


def test_a_new_clip_is_a_job_unless_it_is_waited_for(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], tmp_path: Path, url: str
) -> None:
    film = msgspec.structs.replace(fake_card("film"), size=(4, 8, 8), latent_shape=(4, 1, 2, 2))
    desk = Desk(url, tmp_path)
    desk.engine._models = {"film": film}
    app = create_app(desk.jobs._settings, desk.engine, desk.metrics, jobs=desk.jobs)
    with TestClient(app, base_url="http://localhost") as client:
        later = client.post("/generate", json=REQUEST)
        assert later.status_code == 202
        assert finished(client, later.headers["location"])["state"] == "succeeded"
        waited = client.post("/generate", json=REQUEST, headers={"prefer": "wait=60"})
        assert waited.status_code == 200
        result = client.get(later.headers["location"] + "/result")
        assert result.content == waited.content


def test_pages(client: TestClient) -> None:
    body = {"kind": "generate", "request": REQUEST}
    made = {client.post("/jobs", json=body).json()["id"] for _ in range(5)}
    first = client.get("/jobs?limit=3").json()
    second = client.get(f"/jobs?limit=3&after={first['next']}").json()
    assert {job["id"] for job in first["jobs"] + second["jobs"]} == made
    assert second["next"] is None
    assert client.get("/jobs?limit=0").status_code == 422
    assert client.get("/jobs?after=x").status_code == 422


def test_unknown_and_expired(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], check_problem: Callable[..., Any]
) -> None:
    client, _ = open_desk(job_answers=0.01)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/result")):
        answer = client.request(method, f"/jobs/job_{'0' * 32}{path}")
        assert check_problem(answer, 404)["code"] == "unknown_job"
    path = client.post("/jobs", json={"kind": "generate", "request": REQUEST}).headers["location"]
    finished(client, path)
    time.sleep(0.02)
    gone = check_problem(client.get(f"{path}/result"), 410)
    assert gone["code"] == "result_expired"
    assert "until 20" in gone["detail"]


def test_without_a_store_pictures_go_on(
    open_desk: Callable[..., tuple[TestClient, FakeEngine]], check_problem: Callable[..., Any]
) -> None:
    client, _ = open_desk(redis_url="unix:///nowhere/s")
    began = time.monotonic()
    answer = client.post("/jobs", json={"kind": "generate", "request": REQUEST})
    assert time.monotonic() - began < 3.5
    assert check_problem(answer, 503)["code"] == "jobs_unavailable"
    assert answer.headers["retry-after"] == "1"
    assert client.get("/jobs").status_code == 503
    assert client.post("/generate", json=REQUEST).status_code == 200
    assert client.get("/readyz").json()["jobs"] == "down"
    assert client.get("/readyz?need=jobs").status_code == 503


def test_metrics_count_jobs(client: TestClient) -> None:
    path = client.post("/jobs", json={"kind": "generate", "request": REQUEST}).headers["location"]
    finished(client, path)
    for _ in range(300):
        text = client.get("/metrics").text
        if 'ul_jobs{state="succeeded"} 1.0' in text:
            break
        time.sleep(0.02)
    assert 'ul_jobs{state="succeeded"} 1.0' in text
    assert "ul_job_store_up 1.0" in text
