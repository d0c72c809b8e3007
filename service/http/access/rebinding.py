"""Web pages and a service that asks for no key: only what names this machine is answered.

A page of any site may send requests to 127.0.0.1, and a name of its own that turns into 127.0.0.1
after the page has loaded (DNS rebinding) lets it read the answers too. A browser tells: `Host` and
`Origin` name the site. Other programs send the first as it should be and not the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from unified_latents.service.http.problems import FieldError, Problem, answer
from unified_latents.service.settings import is_loopback


class LocalNames:
    """Refuses requests whose `Host` or `Origin` is neither of this machine nor one of `hosts`."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await answer(problem, scope)(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        for key, value in scope["headers"]:
            if key == b"host" and not self._known("//" + value.decode("latin-1")):
                return _refused(421, "wrong_host", "Host")
            if key == b"origin" and not self._known(value.decode("latin-1")):
                return _refused(403, "wrong_origin", "Origin")
        return None

    def _known(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self._hosts


def _refused(status: int, code: str, header: str) -> Problem:
    message = "names another machine; a service without keys answers to its own names and UL_HOSTS"
    fault = FieldError(field=header, message=message)
    return Problem(status, code, f"{header} {message}", [fault], {"Connection": "close"})
