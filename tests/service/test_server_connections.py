"""How many connections there is room for."""

from __future__ import annotations

import resource

import pytest

from unified_latents.service.server import room_for

ENDLESS = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "soft", "room"),
    [
        ((1024, 524_288), 1256, 1000),
        ((1024, ENDLESS), 1256, 1000),
        ((1024, 1024), 1024, 768),
        ((200, 200), 200, 1),
        ((4096, 4096), 4096, 1000),
        ((ENDLESS, ENDLESS), ENDLESS, 1000),
    ],
)
def test_the_soft_limit_is_raised_and_the_hard_one_kept(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], soft: int, room: int
) -> None:
    held = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: held[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: held.append(pair))
    assert room_for(1000) == room
    assert held[-1] == (soft, limits[1])
