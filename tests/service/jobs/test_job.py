from __future__ import annotations

import msgspec
import pytest

from unified_latents.service.jobs.job import (
    STALLED,
    Outcome,
    Progress,
    Spec,
    State,
    last_seen,
    read,
)

SPEC = Spec("generate", "d" * 64, "tiny", deadline=10.0)
FIELDS = {"data": msgspec.json.encode(SPEC).decode(), "timestamp": "1000000", "priority": "3"}


@pytest.mark.parametrize(
    ("held", "shown"),
    [
        ("prioritized", "queued"),
        ("waiting", "queued"),
        ("delayed", "queued"),
        ("active", "running"),
        ("completed", "succeeded"),
        ("failed", "failed"),
    ],
)
def test_states_are_those_of_the_queue(held: str, shown: State) -> None:
    job = read("job_1", FIELDS, held, locked=True, now=1000.0)
    assert (job.state, job.priority, job.created, job.expires_at) == (shown, 3, 1000.0, 1010.0)


@pytest.mark.parametrize(("held", "locked"), [("prioritized", False), ("active", False)])
def test_what_no_worker_will_run_any_more_has_ended(held: str, locked: bool) -> None:
    late = read("job_1", FIELDS, held, locked=locked, now=1011.0)
    assert late.state == "failed"
    assert late.reason is not None
    assert late.reason.code == "deadline_exceeded"
    fields = {**FIELDS, "ul:cancel": "1"}
    assert read("job_1", fields, held, locked=locked, now=1001.0).state == "cancelled"


def test_a_job_in_work_runs_until_its_worker_lets_it_go() -> None:
    job = read("job_1", {**FIELDS, "ul:cancel": "1"}, "active", locked=True, now=2000.0)
    assert (job.state, job.cancelling) == ("running", True)


def test_a_deadline_counts_from_the_last_time_it_was_queued() -> None:
    job = read("job_1", {**FIELDS, "ul:since": "1005000"}, "waiting", locked=False, now=1011.0)
    assert job.state == "queued"


def test_reasons_keep_their_code() -> None:
    fields = {**FIELDS, "failedReason": "nonfinite: a row\nwas not finite"}
    reason = read("job_1", fields, "failed", locked=False, now=1001.0).reason
    assert reason is not None
    assert (reason.code, reason.detail) == ("nonfinite", "a row\nwas not finite")
    strange = {**FIELDS, "failedReason": "Traceback: /secret/path"}
    reason = read("job_1", strange, "failed", locked=False, now=1001.0).reason
    assert reason is not None
    assert (reason.code, "secret" in reason.detail) == ("internal_error", False)


def test_a_poison_job_names_where_it_was() -> None:
    progress = msgspec.json.encode(Progress(12, 50, "decode")).decode()
    fields = {**FIELDS, "failedReason": STALLED, "progress": progress, "stc": "3"}
    job = read("job_1", {**fields, "atm": "1"}, "failed", locked=False, now=1001.0)
    assert job.reason is not None
    assert job.reason.code == "workers_lost"
    assert "step 12 of 50 of decode" in job.reason.detail
    assert job.attempts == 3


def test_attempts_count_what_was_not_handed_back() -> None:
    fields = {**FIELDS, "stc": "1", "atm": "1", "ats": "7"}
    assert read("job_1", fields, "active", locked=True, now=1001.0).attempts == 3
    assert read("job_1", fields, "waiting", locked=False, now=1001.0).attempts == 2


def test_only_what_succeeded_has_an_outcome() -> None:
    outcome = Outcome("s" * 64, 3, "image/png", {"ul-seed": "1"})
    fields = {**FIELDS, "returnvalue": msgspec.json.encode(outcome).decode(), "finishedOn": "1001"}
    assert read("job_1", fields, "completed", locked=False, now=1002.0).outcome == outcome
    assert read("job_1", fields, "active", locked=True, now=1002.0).outcome is None


def test_before_the_first_step_there_is_no_stage() -> None:
    assert last_seen(Progress()) == "before its first step"
