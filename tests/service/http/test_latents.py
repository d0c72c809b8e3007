from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from unified_latents.service.engine.fake import fake_card
from unified_latents.service.engine.messages import Array
from unified_latents.service.http.latents import MAX_HEADER, read, write
from unified_latents.service.http.problems import Problem

CARD = fake_card()
VALUES = np.arange(32, dtype=np.float32).reshape(2, 4, 2, 2)
Z = Array((2, 4, 2, 2), "float32", VALUES.tobytes())
METADATA = {"kind": "z_0", "latent_space": CARD.latent_space}


def file(header: Any, data: bytes = Z.data) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header(**tensor: Any) -> dict[str, Any]:
    z = {"dtype": "F32", "shape": [2, 4, 2, 2], "data_offsets": [0, 128], **tensor}
    return {"__metadata__": METADATA, "z": z}


def with_metadata(**metadata: Any) -> dict[str, Any]:
    return {**header(), "__metadata__": {**METADATA, **metadata}}


def problem(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        read(body, CARD, 4, 1024)
    return caught.value


def test_what_is_written_is_read_and_the_library_reads_it_too() -> None:
    body = write(Z, "z_clean", CARD)
    assert np.array_equal(load(body)["z"], VALUES)
    latent = read(body, CARD, 2, 1024)
    assert (latent.z, latent.kind) == (Z, "z_clean")
    assert body == write(Z, "z_clean", CARD)
    metadata = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
    assert metadata == {
        "kind": "z_clean",
        "lambda_0": "5.0",
        "latent_space": CARD.latent_space,
        "sha256": hashlib.sha256(Z.data).hexdigest(),
    }


def test_digest_and_level_may_be_left_out_by_a_hand_made_file() -> None:
    assert read(file(header()), CARD, 4, 1024).kind == "z_0"


def test_another_space_is_a_conflict() -> None:
    refused = problem(write(Z, "z_0", fake_card("other")))
    assert (refused.status, refused.code) == (409, "latent_space_mismatch")


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "body"),
    "no header": (b"\x00" * 7, "body"),
    "huge header": (b"\xff" * 8 + b"{}", "header"),
    "header over the limit": (struct.pack("<Q", MAX_HEADER + 1) + b"{", "header"),
    "header past the end": (struct.pack("<Q", 999) + b"{}", "header"),
    "not JSON": (file(b"\x00\x01"), "header"),
    "not UTF-8": (file(b'{"\xff": 1}'), "header"),
    "deep nesting": (file(b"[" * 10_000), "header"),
    "an array": (file([]), "header"),
    "NaN": (file(b'{"z": NaN}'), "header"),
    "no tensor": (file({}), "header"),
    "another tensor": (file({**header(), "y": header()["z"]}), "header"),
    "duplicate tensor": (file(b'{"z": {}, "z": {}}'), "header"),
    "duplicate shape": (
        file(b'{"z": {"dtype": "F32", "shape": [1], "shape": [2], "data_offsets": [0, 4]}}'),
        "header",
    ),
    "metadata that is no string": (file(with_metadata(kind=1)), "header"),
    "unknown key in the tensor": (file(header(pickle="x")), "header"),
    "wrong dtype": (file(header(dtype="F64")), "z.dtype"),
    "unknown dtype": (file(header(dtype="OBJECT")), "z.dtype"),
    "no dimensions": (file(header(shape=[])), "z.shape"),
    "negative": (file(header(shape=[-2, 4, 2, 2])), "z.shape"),
    "zero": (file(header(shape=[0, 4, 2, 2], data_offsets=[0, 0]), b""), "z.shape"),
    "too many": (file(header(shape=[2**40, 4, 2, 2])), "z.shape"),
    "beyond 64 bits": (file(header(shape=[2**70, 4, 2, 2])), "z.shape"),
    "another shape": (file(header(shape=[2, 2, 4, 2])), "z.shape"),
    "fractional": (file(header(shape=[2.5, 4, 2, 2])), "header"),
    "true": (file(header(shape=[True, 4, 2, 2])), "header"),
    "overlapping offsets": (file(header(data_offsets=[0, 64])), "z.data_offsets"),
    "offsets from elsewhere": (file(header(data_offsets=[64, 192])), "z.data_offsets"),
    "negative offsets": (file(header(data_offsets=[-128, 0])), "z.data_offsets"),
    "truncated": (file(header(), Z.data[:-1]), "body"),
    "trailing bytes": (file(header(), Z.data + b"\x00"), "body"),
    "NaN inside": (file(header(), np.full(32, np.nan, "<f4").tobytes()), "z"),
    "infinity inside": (file(header(), np.full(32, np.inf, "<f4").tobytes()), "z"),
    "huge inside": (file(header(), np.full(32, 1e20, "<f4").tobytes()), "z"),
    "a level that is no number": (file(with_metadata(lambda_0="five")), "lambda_0"),
    "no kind": (file({**header(), "__metadata__": {}}), "kind"),
    "unknown kind": (file(with_metadata(kind="z_1")), "kind"),
    "no space": (file({**header(), "__metadata__": {"kind": "z_0"}}), "latent_space"),
    "another level": (file(with_metadata(lambda_0="4.0")), "lambda_0"),
    "another digest": (file(with_metadata(sha256="0" * 64)), "sha256"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_field(name: str) -> None:
    body, field = HOSTILE[name]
    refused = problem(body)
    assert refused.status == 422
    assert [error.field for error in refused.errors] == [field]
