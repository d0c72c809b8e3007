"""Every contest on tiny tensors under the interpreter, with a timer that calls and compares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from unified_latents.kernels.proof import contenders
from unified_latents.kernels.proof.contenders import Card, Contest, contests, shown
from unified_latents.kernels.proof.interpreter import exact_products

_CARD = Card(bandwidth=1e12, rate=1e15)
_SMALL: dict[str, Callable[[], Contest]] = {
    "attention": lambda: contenders.attention(2, 2, (3, 4), 32, "cpu"),
    "modulate": lambda: contenders.modulate(2, 5, 32, "cpu"),
    "gated": lambda: contenders.gated(2, 5, 32, "cpu"),
    "error": lambda: contenders.error(2, 48, "cpu"),
    "step": lambda: contenders.step(3, 48, "cpu"),
}


@pytest.fixture(autouse=True)
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole graphs are recorded as on a GPU; no code is generated for them here."""
    compiler = torch.compile

    def compile(run: Callable[..., object], **options: Any) -> Callable[..., object]:
        assert options == {"fullgraph": True}
        recorded: Callable[..., object] = compiler(run, backend="aot_eager", **options)
        return recorded

    monkeypatch.setattr(torch, "compile", compile)


def leaves(result: object) -> list[Tensor]:
    """The tensors of a result: one, or a named tuple of them."""
    parts: Iterable[Any] = [result] if isinstance(result, Tensor) else result  # type: ignore[assignment]
    return [each.double() for each in parts]


@pytest.mark.parametrize("name", _SMALL)
def test_every_way_gives_what_the_reference_gives(name: str) -> None:
    torch.manual_seed(0)
    contest, results = _SMALL[name](), []

    def timer(run: Callable[[], object]) -> float:
        results.append(leaves(run()))
        return float(len(results))

    with exact_products():
        [figures] = contests([contest], _CARD, timer)
    assert len(results) == len(contest.ways) == (4 if name == "attention" else 3)
    [reference] = [
        got for way, got in zip(contest.ways, results, strict=True) if way.startswith("eager")
    ]
    tolerance = 1e-5 if name == "step" else 2e-2
    for got in results:
        for a, b in zip(got, reference, strict=True):
            assert (a - b).norm() <= tolerance * b.norm()
    assert figures["ms"] == {way: 1.0 + i for i, way in enumerate(contest.ways)}
    bound = max(contest.nbytes / _CARD.bandwidth, contest.flops / _CARD.rate)
    assert figures["bound_ms"] == pytest.approx(1e3 * bound)
    assert json.loads(json.dumps(figures)) == figures
    assert set(figures) == {"name", "ms", "bound_ms"}


def test_the_table_has_ratios_to_ours_and_the_share_of_the_bound() -> None:
    figures = [{"name": "a", "ms": {"fused": 0.5, "eager": 1.5}, "bound_ms": 0.25}]
    assert shown(figures) == "a: 500.0 µs, 50% of the bound; eager ×3.00"


def test_the_least_work_is_counted() -> None:
    """q, k and v in, o out; two products of length × length × head."""
    contest = _SMALL["attention"]()
    assert contest.nbytes == 4 * 2 * 2 * 12 * 32 * 2
    assert contest.flops == 2 * (2 * 12 * 12 * 32) * 4
    assert _SMALL["modulate"]().nbytes == 2 * (2 * 5 * 32 * 2)
    assert _SMALL["gated"]().nbytes == 3 * (2 * 5 * 32 * 2)
    assert _SMALL["step"]().nbytes == 4 * (3 * 48 * 4)
