"""Scopes: every route says which one it needs, and a caller proves with a key to have it.

A route that says nothing is refused to everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unified_latents.service.http.problems import FieldError, Problem
from unified_latents.service.keys import OPERATOR, SCOPES, Caller, KeyRing
from unified_latents.service.settings import Settings, is_loopback

OPEN = "open"
"""Needs no key."""
ANY = "any"
"""Needs a key, whatever it is for."""
_FIELD = "x-scope"
_SCHEME = "Bearer"


def needs(scope: str) -> dict[str, Any]:
    """A route's `openapi_extra`: the scope that it needs, for the document and for the guard."""
    if scope not in (OPEN, ANY, *SCOPES):
        raise ValueError(f"no such scope: {scope}")
    security: list[dict[str, list[str]]] = [] if scope == OPEN else [{"bearer": []}]
    return {_FIELD: scope, "security": security}


def needed(route: object) -> str | None:
    """What `needs` said of a route; None if nobody did."""
    extra: Mapping[str, Any] = getattr(route, "openapi_extra", None) or {}
    scope = extra.get(_FIELD)
    return str(scope) if scope is not None else None


def anonymous(settings: Settings) -> Caller:
    """Whoever calls where there are no keys: the operator, if only this machine can call."""
    everything = frozenset(SCOPES)
    return Caller("anonymous", everything if is_loopback(settings.host) else everything - OPERATOR)


class Guard:
    """The keys of a service, and who calls where there are none."""

    def __init__(self, ring: KeyRing, settings: Settings) -> None:
        self._ring = ring
        self._anonymous = anonymous(settings)

    def check(self, authorization: str | None, scope: str | None) -> Caller:
        """Who calls; a 401 without a valid key, a 403 that names the scope it lacks."""
        if scope is None:
            raise Problem(403, "forbidden", "nobody may call this route")
        if scope == OPEN:
            return self._anonymous
        caller = self._caller(authorization)
        if scope != ANY and not caller.may(scope):
            raise forbidden(scope)
        return caller

    def named(self, owner: str) -> Caller | None:
        """Who called by that name before; None where the key is gone."""
        return self._ring.named(owner) if len(self._ring) else self._anonymous

    def _caller(self, authorization: str | None) -> Caller:
        if not len(self._ring):
            return self._anonymous
        if authorization is None:
            raise _unauthorized("an API key is needed: Authorization: Bearer <key>", "")
        scheme, _, token = authorization.partition(" ")
        caller = self._ring.find(token.strip()) if scheme.lower() == _SCHEME.lower() else None
        if caller is None:
            raise _unauthorized("this API key is not known here", ', error="invalid_token"')
        return caller


def _unauthorized(detail: str, error: str) -> Problem:
    challenge = {"WWW-Authenticate": f'{_SCHEME} realm="unified-latents"{error}'}
    fault = FieldError(field="Authorization", message=detail)
    return Problem(401, "unauthorized", detail, [fault], challenge)


def forbidden(scope: str) -> Problem:
    """A 403 that names the scope."""
    message = f"this API key lacks the scope {scope}"
    challenge = f'{_SCHEME} realm="unified-latents", error="insufficient_scope", scope="{scope}"'
    fault = FieldError(field="Authorization", message=message, limit=scope)
    return Problem(403, "insufficient_scope", message, [fault], {"WWW-Authenticate": challenge})
