"""What can go wrong between a client and the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ClientError(Exception):
    """Any of these."""


class UnreachableError(ClientError):
    """No answer came, however often it was asked for."""


class ProblemError(ClientError):
    """The service said no: `status`, a stable `code`, and the fields at fault with their limits."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[dict[str, Any]] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id


class SignatureError(ClientError):
    """What came is not what the service has sent, or not of now."""


class JobError(ClientError):
    """A job that ended without an answer: `state` is failed or cancelled, `code` says why."""

    def __init__(self, identity: str, state: str, code: str, detail: str) -> None:
        super().__init__(f"{identity} {state}: {code}: {detail}" if code else f"{identity} {state}")
        self.identity = identity
        self.state = state
        self.code = code
        self.detail = detail
