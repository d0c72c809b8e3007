from __future__ import annotations

import msgspec
import pytest

from unified_latents.service.engine.messages import Array, Cancel, Ready
from unified_latents.service.engine.protocol import Command, Message


def test_unknown_fields_are_ignored() -> None:
    newer = msgspec.msgpack.encode({"type": "cancel", "id": 3, "reason": "from the future"})
    assert msgspec.msgpack.decode(newer, type=Command) == Cancel(3)


def test_every_message_has_its_own_tag() -> None:
    assert msgspec.json.schema(Message)
    assert msgspec.json.schema(Command)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_an_array_has_the_bytes_of_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fill"):
        Array(shape, "float32", b"0000")
    raw = {"shape": shape, "dtype": "uint8", "data": b"0"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(raw), type=Array)


def test_numerics_by_mode() -> None:
    ready = Ready(1, (), "reference", "s", "f", "2", "cpu")
    assert (ready.numerics(True), ready.numerics(False)) == ("s", "f")
