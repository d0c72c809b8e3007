"""Who is let in, who is sent away, and when they are told to come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import msgspec
import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.engine.messages import Generate, Request, Trajectory
from unified_latents.service.engine.seam import Engine, EngineError, NotReadyError, Status
from unified_latents.service.http.access.admission import Admission, Reason
from unified_latents.service.http.access.budgets import Budgets
from unified_latents.service.http.app import create_app
from unified_latents.service.http.problems import Problem, from_engine
from unified_latents.service.keys import SCOPES, Caller, KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

CheckProblem = Callable[..., dict[str, Any]]
REQUEST = Generate(0, "m", True, 1, 0, 2, 0, Trajectory(10, "ddim"), 1.0, None, None)
ALICE = Caller("alice", frozenset(SCOPES), 100)
HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")


class Forecast:
    """All of an engine that admission looks at."""

    def __init__(self, drain: float, alone: float | None = None) -> None:
        self.status = Status("ready", in_flight=1 if drain else 0, drain=drain)
        self._alone = alone

    def eta(self, request: Request) -> float | None:
        """`high` does not wait for others."""
        ahead = 0.0 if request.priority == "high" else self.status.drain
        return None if self._alone is None else ahead + self._alone


def _admission(forecast: Forecast, limit: int = 50) -> tuple[Admission, list[Reason]]:
    refused: list[Reason] = []
    engine = cast(Engine, forecast)
    return Admission(engine, limit, refused.append, Budgets(lambda: 0.0)), refused


def _refusal(admission: Admission, request: Generate, caller: Caller = ALICE) -> Problem:
    with pytest.raises(Problem) as caught, admission.enter(caller, request):
        pass
    return caught.value


def test_the_queue_is_bounded_in_row_steps_and_empties_with_progress() -> None:
    admission, refused = _admission(Forecast(drain=8.0))
    free = Caller("free", frozenset())
    with admission.enter(free, REQUEST) as first, admission.enter(free, REQUEST):
        assert admission.queued == 40
        problem = _refusal(admission, REQUEST)
        assert (problem.status, problem.code, refused) == (503, "overloaded", ["queue"])
        assert problem.headers["retry-after-ms"] == "2000"
        assert problem.headers["Retry-After"] == "2"
        first.progress(5, 10)
        assert admission.queued == 30
        with admission.enter(free, REQUEST):
            pass
    assert admission.queued == 0


def test_what_can_never_fit_is_not_asked_to_come_back() -> None:
    admission, _ = _admission(Forecast(drain=1.0), limit=19)
    assert _refusal(admission, REQUEST).headers == {"x-should-retry": "false"}


def test_a_deadline_that_the_forecast_cannot_keep() -> None:
    late = msgspec.structs.replace(REQUEST, timeout=3.0)
    admission, refused = _admission(Forecast(drain=4.0, alone=1.0))
    problem = _refusal(admission, late)
    assert (problem.status, problem.code, refused) == (503, "deadline_unmet", ["deadline"])
    assert problem.headers["retry-after-ms"] == "2000"
    with admission.enter(ALICE, msgspec.structs.replace(late, timeout=5.5)):
        pass
    with admission.enter(ALICE, msgspec.structs.replace(late, priority="high")):
        pass
    hopeless = msgspec.structs.replace(late, timeout=0.5)
    idle, _ = _admission(Forecast(drain=0.0, alone=1.0))
    assert _refusal(idle, hopeless).headers == {"x-should-retry": "false"}
    fresh = Forecast(drain=0.0, alone=1.0)
    fresh.status = Status("ready", in_flight=1)
    unstepped, _ = _admission(fresh)
    again = _refusal(unstepped, hopeless).headers
    assert (again["x-should-retry"], again["retry-after-ms"]) == ("true", "500")
    unmeasured, _ = _admission(Forecast(drain=0.0))
    with unmeasured.enter(ALICE, hopeless):
        pass


def test_a_refused_request_costs_its_key_nothing() -> None:
    admission, refused = _admission(Forecast(drain=4.0, alone=0.0))
    for _ in range(20):
        _refusal(admission, msgspec.structs.replace(REQUEST, timeout=1.0))
    for _ in range(5):
        with admission.enter(ALICE, REQUEST):
            pass
    problem = _refusal(admission, REQUEST)
    assert (problem.status, problem.code, refused[-1]) == (429, "budget_exceeded", "budget")
    assert problem.headers["Retry-After"] == "12"


def test_what_the_engine_does_not_take_is_given_back_and_told_when_to_return() -> None:
    forecast = Forecast(drain=8.0)
    admission, refused = _admission(forecast)
    forecast.status = Status("ready", drain=8.0, in_flight=4)
    for _ in range(20):
        with pytest.raises(Problem) as full, admission.enter(ALICE, REQUEST):
            raise NotReadyError("busy", "4 requests are already in flight")
    assert (full.value.code, full.value.headers["retry-after-ms"]) == ("busy", "2000")
    forecast.status = Status("starting")
    with pytest.raises(Problem) as early, admission.enter(ALICE, REQUEST):
        raise NotReadyError("not_ready", "the engine is starting")
    assert early.value.headers["x-should-retry"] == "true"
    forecast.status = Status("failed", "no such checkpoint")
    with pytest.raises(Problem) as dead, admission.enter(ALICE, REQUEST):
        raise NotReadyError("not_ready", "the engine is failed")
    assert dead.value.headers == {"x-should-retry": "false"}
    assert dead.value.detail == "the engine is failed: no such checkpoint"
    assert set(refused) == {"busy", "not_ready"}
    for _ in range(5):
        with admission.enter(ALICE, REQUEST):
            pass
    assert _refusal(admission, REQUEST).code == "budget_exceeded"


def test_high_priority_needs_its_scope() -> None:
    admission, _ = _admission(Forecast(drain=0.0))
    high = msgspec.structs.replace(REQUEST, priority="high")
    assert _refusal(admission, high, Caller("low", frozenset({"generate"}))).status == 403


SECRET, KEY = create("alice", ["generate"], 40)


@pytest.fixture
def narrow(fake: FakeEngine) -> Iterator[TestClient]:
    """Room for one request of sixteen row-steps, and a budget for two a minute."""
    app = create_app(Settings(queue_row_steps=20), fake, Metrics(), KeyRing([KEY]))
    with TestClient(
        app, base_url="http://localhost", headers={"authorization": f"Bearer {SECRET}"}
    ) as client:
        yield client


BODY = {"label": 0, "n": 2, "guidance": 1}


def test_refusals_over_http_say_when_to_return(
    narrow: TestClient, fake: FakeEngine, check_problem: CheckProblem
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with fake.hold():
            held = pool.submit(narrow.post, "/generate", json=BODY)
            while not fake.in_flight:
                threading.Event().wait(0.01)
            full = narrow.post("/generate", json=BODY)
            assert check_problem(full, 503, "queue")["limit"] == 20
            assert [full.headers[name] for name in HEADERS] == ["1", "1000", "true"]
        assert held.result().status_code == 200
    assert narrow.post("/generate", json=BODY).status_code == 200
    spent = narrow.post("/generate", json=BODY)
    assert check_problem(spent, 429, "Authorization")["limit"] == 40
    assert 0 < int(spent.headers["retry-after-ms"]) <= 12_000
    never = narrow.post("/generate", json={**BODY, "n": 3})
    assert (never.status_code, never.headers["x-should-retry"]) == (503, "false")
    check_problem(narrow.post("/generate", json={**BODY, "priority": "high"}), 403)


def test_the_reasons_are_counted(narrow: TestClient) -> None:
    for _ in range(3):
        narrow.post("/generate", json=BODY)
    metrics: Metrics = cast(Any, narrow.app).state.service.metrics
    metrics_of = metrics.registry.get_sample_value
    assert metrics_of("ul_admission_rejected_total", {"reason": "budget"}) == 1
    refused = {"route": "/generate", "outcome": "refused"}
    assert metrics_of("ul_request_duration_seconds_count", refused) == 1


def test_the_engines_own_limits_are_answers(
    client: TestClient, fake: FakeEngine, check_problem: CheckProblem
) -> None:
    with fake.hold():
        late = client.post("/generate", json={**BODY, "timeout": 0.01})
    assert check_problem(late, 504)["code"] == "deadline_exceeded"
    fake._max_pending = 0
    assert check_problem(client.post("/generate", json=BODY), 503)["code"] == "busy"
    assert from_engine(EngineError("out_of_memory", "no row fits")).status == 507
    replaced = from_engine(EngineError("model_replaced", "another checkpoint"))
    assert (replaced.status, replaced.headers["x-should-retry"]) == (503, "true")


def test_nothing_is_left_of_a_request_whose_client_leaves() -> None:
    async def run() -> None:
        engine = FakeEngine(fake_card())
        await engine.start()
        service = create_app(Settings(), engine, Metrics()).state.service
        request = msgspec.structs.replace(REQUEST, model="fake")
        with engine.hold():
            task = asyncio.ensure_future(service.result(ALICE, request))
            while not engine.in_flight:
                await asyncio.sleep(0)
            assert service.admission.queued == 20
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (service.admission.queued, engine.in_flight) == (0, set())

    asyncio.run(run())
