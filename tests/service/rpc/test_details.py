from __future__ import annotations

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from unified_latents.service.http.problems import Problem, retry_headers
from unified_latents.service.rpc.details import DETAILS, PUSHBACK, code_of, failure


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (406, "INVALID_ARGUMENT"),
        (409, "FAILED_PRECONDITION"),
        (413, "INVALID_ARGUMENT"),
        (415, "INVALID_ARGUMENT"),
        (422, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
        (507, "RESOURCE_EXHAUSTED"),
    ],
)
def test_every_http_status_has_its_code(status: int, code: str) -> None:
    assert code_of(status) is grpc.StatusCode[code]


def test_when_to_come_back_is_said_in_both_ways() -> None:
    found = failure(Problem(503, "overloaded", "full", headers=retry_headers(1.5)), "one")
    trailing = dict(found.trailing)
    assert trailing[PUSHBACK] == "1500"
    assert trailing["retry-after-ms"] == "1500"
    packed = trailing[DETAILS]
    assert isinstance(packed, bytes)
    retry = RetryInfo()
    assert Status.FromString(packed).details[-1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_what_will_never_be_admitted_is_not_retried() -> None:
    found = failure(Problem(503, "overloaded", "full", headers=retry_headers(float("inf"))), "one")
    assert dict(found.trailing)[PUSHBACK] == "-1"
