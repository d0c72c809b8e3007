from __future__ import annotations

import pytest

from unified_latents.service.http.negotiation import LATENT, Choice, Format, choose
from unified_latents.service.http.problems import Problem

IMAGES: tuple[Format, ...] = ("png", "webp", "jpeg")
ALL: tuple[Format, ...] = (*IMAGES, "latents")


@pytest.mark.parametrize(
    ("accept", "wanted", "expected"),
    [
        (None, None, Choice("png", False)),
        ("", None, Choice("png", False)),
        ("*/*", None, Choice("png", False)),
        ("*/*", "webp", Choice("webp", False)),
        ("application/json", "latents", Choice("latents", False)),
        ("image/png", None, Choice("png", True)),
        ("IMAGE/PNG", None, Choice("png", True)),
        ("image/jpg", None, Choice("jpeg", True)),
        ("image/*", None, Choice("png", True)),
        ("image/webp, image/png;q=0.5", None, Choice("webp", True)),
        ("image/png;q=0.5, application/json", None, Choice("png", False)),
        ("image/png, application/json;q=0.5", None, Choice("png", True)),
        ("image/webp", "png", Choice("png", True)),
        (LATENT, None, Choice("latents", True)),
        ("text/html, application/xhtml+xml, */*;q=0.8", None, Choice("png", False)),
        (",;=", None, Choice("png", False)),
        ("application/json;q=0, */*", None, Choice("png", True)),
        ("image/png;q=nan, application/json;q=0.1", None, Choice("png", False)),
    ],
)
def test_one_image(accept: str | None, wanted: Format | None, expected: Choice) -> None:
    assert choose(accept, wanted=wanted, fallback="png", bare=ALL) == expected


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/json;q=0"])
@pytest.mark.parametrize("wanted", [None, "png"])
def test_what_cannot_be_said_without_an_envelope(accept: str, wanted: Format | None) -> None:
    with pytest.raises(Problem) as caught:
        choose(accept, wanted=wanted, fallback="png", bare=("latents",) if wanted else ())
    assert caught.value.status == 406
    assert "application/json" in str(caught.value.errors[0].limit)


def test_a_route_may_prefer_bytes() -> None:
    def choice(accept: str, bare: tuple[Format, ...]) -> Choice:
        return choose(accept, wanted=None, fallback="png", bare=bare, prefer_bare=True)

    assert choice("*/*", IMAGES) == Choice("png", True)
    assert choice("application/json", IMAGES) == Choice("png", False)
    assert choice("*/*", ()) == Choice("png", False)
