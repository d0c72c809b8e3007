from __future__ import annotations

import time

import pytest

from unified_latents.service.client import SignatureError, read_webhook
from unified_latents.service.jobs.webhooks import signed
from unified_latents.service.settings import parse_secrets

OLD, NEW = "whsec_" + "A" * 32, "whsec_" + "B" * 32
BODY = (
    b'{"type": "job.failed", "data": {"id": "job_1", "kind": "decode", "model": "m", '
    b'"state": "failed", "reason": {"code": "nonfinite", "detail": "as told"}, "result": null}}'
)


def headers(*secrets: str, age: float = 0) -> dict[str, str]:
    """As the service signs it, while it changes its secret too."""
    keys = parse_secrets(";".join(secrets))
    made = signed(keys, "job_1-7", int(time.time() - age), BODY)
    return {str(name).title(): str(value) for name, value in made.items()}


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_notice_is_read(secret: str) -> None:
    notice = read_webhook(BODY, headers(OLD, NEW), secret)
    assert (notice.delivery, notice.job, notice.state) == ("job_1-7", "job_1", "failed")
    assert notice.reason == ("nonfinite", "as told")


@pytest.mark.parametrize(
    ("change", "secret", "age", "body"),
    [
        ({}, OLD, 0, BODY),
        ({}, NEW, 0, BODY.replace(b"job_1", b"job_2")),
        ({}, NEW, 400, BODY),
        ({}, NEW, -400, BODY),
        ({"Webhook-Id": "job_1-8"}, NEW, 0, BODY),
        ({"Webhook-Timestamp": "0"}, NEW, 0, BODY),
        ({"Webhook-Signature": "nonsense"}, NEW, 0, BODY),
        ({"Webhook-Signature": "v1,a"}, NEW, 0, BODY),
        ({"Webhook-Signature": ""}, NEW, 0, BODY),
        ({}, NEW, 0, b"\xff"),
    ],
)
def test_what_is_not_of_the_service_is_refused(
    change: dict[str, str], secret: str, age: float, body: bytes
) -> None:
    with pytest.raises(SignatureError):
        read_webhook(body, {**headers(secret, age=age), **change}, NEW)


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_no_secret_signs_nothing(secret: str) -> None:
    with pytest.raises(SignatureError):
        read_webhook(BODY, headers(NEW), secret)
