from __future__ import annotations

import pytest

from unified_latents.service.http.deferral.ranges import parse_range
from unified_latents.service.http.problems import Problem


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-", (0, 10)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-400", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=4-2", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=-", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_a_range_is_one_span_or_nothing(header: str | None, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0", "bytes=99-100"])
def test_outside_is_refused_with_the_size(header: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_range(header, 10)
    assert refused.value.status == 416
    assert refused.value.headers["Content-Range"] == "bytes */10"
