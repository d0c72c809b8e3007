from __future__ import annotations

import pytest

from unified_latents.service.client.retry import Retries

RETRIES = Retries(attempts=3, first=0.2, longest=10)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 422, 500])
def test_an_answer_that_will_not_change_is_not_asked_for_again(status: int) -> None:
    assert RETRIES.wait(1, status, {}) is None


@pytest.mark.parametrize("status", [None, 429, 502, 503, 504])
def test_backoff_doubles_within_its_jitter(status: int | None) -> None:
    for attempt, most in ((1, 0.2), (2, 0.4)):
        wait = RETRIES.wait(attempt, status, {})
        assert wait is not None
        assert most / 2 <= wait <= most


def test_the_last_attempt_is_the_last() -> None:
    assert RETRIES.wait(3, 503, {"retry-after": "1"}) is None


def test_the_finer_header_is_obeyed() -> None:
    assert RETRIES.wait(1, 429, {"retry-after": "2", "retry-after-ms": "1500"}) == 1.5
    assert RETRIES.wait(1, 429, {"retry-after": "2"}) == 2
    assert RETRIES.wait(1, 429, {"retry-after": "soon", "retry-after-ms": "-5"}) == 0


def test_the_service_overrules_the_status() -> None:
    assert RETRIES.wait(1, 503, {"x-should-retry": "false"}) is None
    assert RETRIES.wait(1, 500, {"x-should-retry": "true", "retry-after": "1"}) == 1


def test_a_wait_beyond_patience_is_not_begun() -> None:
    assert RETRIES.wait(1, 429, {"retry-after": "11"}) is None
