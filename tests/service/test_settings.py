from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from unified_latents.service.settings import (
    Settings,
    is_loopback,
    parse_model,
    state_folder,
    usable_threads,
)


def test_the_defaults_need_no_environment() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.max_body) == ("127.0.0.1", 8000, 16 * 2**20)
    assert settings.served == {"fashion": "fashion"}
    assert settings.allowed_address


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PORT": "9000",
        "UL_HOME": "/somewhere",
        "UL_MODELS": "a=/x, b-2=/y=z,",
        "UL_MAX_BODY": "4096",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.port == 9000
    assert settings.home == Path("/somewhere")
    assert settings.served == {"a": "/x", "b-2": "/y=z"}
    assert settings.max_body == 4096


def test_state_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder() == Path("/state/unified-latents")


@pytest.mark.parametrize("text", ["fashion", "=x", "a=", "a b=x", "a/b=x", f"{'a' * 65}=x"])
def test_models_that_are_not_name_and_folder(text: str) -> None:
    with pytest.raises(ValueError, match="model"):
        parse_model(text)


@pytest.mark.parametrize("threads", [0, 3, 6])
def test_threads_are_a_power_of_two(threads: int) -> None:
    with pytest.raises(ValidationError):
        Settings(threads=threads)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_only_loopback_needs_no_leave(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    assert Settings(host=host).allowed_address is local
    assert Settings(host=host, allow_anonymous=True).allowed_address


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 2), (4, 2), (9, 8)])
def test_threads_by_default_leave_a_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert usable_threads() == threads
