from __future__ import annotations

import io

from rich.console import Console

from unified_latents.training.bench import Speed, bench


def test_both_stages_are_measured_beside_the_products() -> None:
    page = io.StringIO()
    console = Console(file=page, width=120)
    speeds = bench(rounds=1, steps=1, console=console, compiled=False)
    assert [speed.name for speed in speeds] == ["stage 1", "stage 2"]
    for speed in speeds:
        assert_measured(speed)
    assert all(each in page.getvalue() for each in ("torch.mm 1024³", "torch.mm 2048³", "images/s"))


def assert_measured(speed: Speed) -> None:
    assert len(speed.images_per_second) == len(speed.utilisation) == 1
    assert speed.images_per_second[0] > 0
    assert speed.utilisation[0] > 0
