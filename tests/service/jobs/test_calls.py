from __future__ import annotations

import msgspec

from unified_latents.service.engine.messages import Array, Decode, Trajectory
from unified_latents.service.jobs.calls import Call


def test_a_call_survives_both_of_its_codings() -> None:
    z = Array((1, 2), "float32", bytes(range(8)))
    how = Trajectory(4, "dpmpp-2m")
    call = Call(
        Decode(7, "tiny", True, 2**53 - 1, 3, z, "z_clean", how), "png", True, {"mode": "pad"}
    )
    for coding in (msgspec.msgpack, msgspec.json):
        assert coding.decode(coding.encode(call), type=Call) == call
