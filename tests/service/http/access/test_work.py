from __future__ import annotations

import msgspec
import pytest

from unified_latents.service.engine.messages import Array, Decode, Encode, Generate, Trajectory
from unified_latents.service.engine.telemetry import Cost, Costs
from unified_latents.service.http.access.work import row_steps, seconds

GENERATE = Generate(
    0, "m", True, 1, 0, 3, 0, Trajectory(10, "ddim"), 1.5, None, Trajectory(4, "ddim")
)
DECODE = Decode(
    0, "m", True, 1, 0, Array((2, 4), "float32", bytes(32)), "z_0", Trajectory(5, "ddim")
)
ENCODE = Encode(0, "m", True, 1, Array((1, 8, 8), "uint8", bytes(64)), "z_clean", 0)


def test_row_steps_are_network_evaluations_of_one_row() -> None:
    change = msgspec.structs.replace
    assert row_steps(GENERATE) == 3 * (10 * 2 + 4)
    assert row_steps(change(GENERATE, guidance=1.0)) == 3 * (10 + 4)
    assert row_steps(change(GENERATE, decode=None)) == 3 * 10 * 2
    assert row_steps(DECODE) == 2 * 5
    assert row_steps(ENCODE) == 1
    assert row_steps(change(ENCODE, levels=40)) == 41
    assert row_steps(change(ENCODE, levels=128)) == 1 + 128


def test_seconds_come_from_the_bucket_that_holds_the_rows() -> None:
    def cost(stage: str, bucket: int, seconds: float, **other: object) -> Cost:
        facts = {"model": "m", "strict": True, "stage": stage, "bucket": bucket}
        return msgspec.convert(facts | {"seconds": seconds} | other, Cost)

    costs = Costs(
        (
            cost("base", 4, 0.3),
            cost("base", 8, 0.5),
            cost("decode", 2, 0.1),
            cost("decode", 2, 9.0, strict=False),
            cost("decode", 2, 9.0, model="other"),
        )
    )
    assert seconds(GENERATE, costs) == pytest.approx(10 * 0.5 + 4 * 0.1 * 3 / 2)
    assert seconds(DECODE, costs) == pytest.approx(5 * 0.1)
    assert seconds(ENCODE, costs) == 0.0
    assert seconds(GENERATE, Costs(())) == 0.0
