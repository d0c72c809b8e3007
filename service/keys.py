"""API keys: who may call what, and how much of it.

A key is 256 random bits, shown once; the service keeps its SHA-256, which needs no salt and no
slow hash because nobody can guess such a key. One line a key:

    alice sha256:<64 hexadecimal digits> scopes=generate,decode budget=60000

`budget` is in row-steps a minute; without it there is none.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SCOPES = ("generate", "encode", "decode", "replay", "jobs", "metrics", "admin", "high")
"""What a key may be for; `high` is the priority, the others are routes."""
OPERATOR = frozenset({"admin", "high"})
"""Never for strangers."""
_PREFIX = "ul_"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Caller:
    """Who calls: a key's name, what it may do, and its row-steps a minute."""

    name: str
    scopes: frozenset[str]
    budget: int | None = None

    def may(self, scope: str) -> bool:
        """Whether the scope is among the caller's."""
        return scope in self.scopes


class Key(NamedTuple):
    """A caller and the digest of the key that proves it."""

    caller: Caller
    digest: bytes

    def line(self) -> str:
        """As it stands in a file of keys."""
        caller = self.caller
        scopes = ",".join(scope for scope in SCOPES if scope in caller.scopes)
        budget = f" budget={caller.budget}" if caller.budget is not None else ""
        return f"{caller.name} sha256:{self.digest.hex()} scopes={scopes}{budget}"


class KeyRing:
    """All keys of a service. Empty: there are none, which is for the address to allow."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)
        names = [key.caller.name for key in self._keys]
        if len(set(names)) != len(names):
            raise ValueError("two API keys have the same name")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> Caller | None:
        """Whose key this is. Every key is compared, each in constant time."""
        digest, found = _digest(token), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        return found

    def named(self, name: str) -> Caller | None:
        """The caller of that name."""
        return next((key.caller for key in self._keys if key.caller.name == name), None)


def create(name: str, scopes: Iterable[str], budget: int | None = None) -> tuple[str, Key]:
    """A new key, as its owner gets it and as the service keeps it; `ValueError` for bad names."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    return secret, Key(_caller(name, list(scopes), budget), _digest(secret))


def load(text: str, file: Path | None) -> KeyRing:
    """The keys of `UL_API_KEYS` (lines, or parted by `;`) and of a file.

    `ValueError` names the line that is wrong; `OSError` if there is no such file.
    """
    lines = text.replace(";", "\n").splitlines()
    if file is not None:
        lines += file.read_text(encoding="utf-8").splitlines()
    stripped = (line.partition("#")[0].strip() for line in lines)
    return KeyRing(parse(line) for line in stripped if line)


def parse(line: str) -> Key:
    """One line; `ValueError` says what is wrong with it, without its digest."""
    name, *fields = line.split()
    digests = [found for field in fields if (found := _DIGEST.fullmatch(field))]
    rest = [field.partition("=")[::2] for field in fields if not _DIGEST.fullmatch(field)]
    values = dict(rest)
    if len(digests) != 1 or set(values) - {"scopes", "budget"} or len(values) != len(rest):
        raise ValueError(f"the API key {name!r} needs sha256:<digest> scopes=<list> [budget=<n>]")
    budget = values.get("budget")
    if budget is not None and not budget.isdigit():
        raise ValueError(f"the budget of the API key {name!r} is not a number of row-steps")
    scopes = values.get("scopes", "").split(",")
    caller = _caller(name, scopes, int(budget) if budget is not None else None)
    return Key(caller, bytes.fromhex(digests[0].group(1)))


def _caller(name: str, scopes: list[str], budget: int | None) -> Caller:
    if not _NAME.fullmatch(name):
        raise ValueError("an API key's name has at most 64 letters, digits, '-', '_' and '.'")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise ValueError(f"the API key {name!r} needs scopes out of {', '.join(SCOPES)}")
    if budget is not None and budget < 1:
        raise ValueError(f"the budget of the API key {name!r} must be at least 1 row-step a minute")
    return Caller(name, frozenset(scopes), budget)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
