"""Safetensors whose header and bytes disagree, with each other or with the model."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from tests.service.corpus.wire import Case, request

LATENT = "application/vnd.ul.latent+safetensors"
SHAPE = (1, 4, 4, 4)
_DATA = struct.pack("<64f", *(i / 64 for i in range(64)))


def file(header: Any, data: bytes = _DATA) -> bytes:
    """A safetensors file with this header, JSON or raw."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def cases(space: str) -> Iterator[tuple[str, Case]]:
    """Name and request of each; `space` is the model's own, so that only the fault is at fault."""
    files = {**_containers(), **_headers(space), **_values(space)}
    for name, (data, field) in files.items():
        status = 409 if field == "latent_space" else 422
        yield f"latent {name}", request("/decode?model=tiny", LATENT, data, status, field)


def _headed(space: str, **tensor: Any) -> dict[str, Any]:
    z = {"dtype": "F32", "shape": list(SHAPE), "data_offsets": [0, len(_DATA)], **tensor}
    return {"__metadata__": {"kind": "z_0", "latent_space": space}, "z": z}


def _containers() -> dict[str, tuple[bytes, str]]:
    return {
        "empty": (b"", "body"),
        "of four bytes": (b"\x01\x00\x00\x00", "body"),
        "header of 2^63": (struct.pack("<Q", 2**63) + b"{}", "header"),
        "header of 2^64 - 1": (b"\xff" * 8 + b"{}", "header"),
        "header past the end": (struct.pack("<Q", 4096) + b"{}", "header"),
        "not JSON": (file(b"\x80\x04pickle"), "header"),
        "not UTF-8": (file(b'{"\xff\xfe": 1}'), "header"),
        "a thousand levels deep": (file(b'{"a":' * 3000 + b"1" + b"}" * 3000), "header"),
        "ten thousand open brackets": (file(b"[" * 10_000), "header"),
        "duplicate tensor": (file(b'{"z": {}, "z": {}}'), "header"),
        "integer of 10 000 digits": (file(b'{"z": ' + b"9" * 10_000 + b"}"), "header"),
        "a pickle": (b"\x80\x04\x95" + b"\x00" * 64, "header"),
    }


def _headers(space: str) -> dict[str, tuple[bytes, str]]:
    second = {**_headed(space), "y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    return {
        "wrong dtype": (file(_headed(space, dtype="F64")), "z.dtype"),
        "dtype of its own": (file(_headed(space, dtype="OBJECT")), "z.dtype"),
        "product over 2^64": (file(_headed(space, shape=[2**33, 2**33, 4, 4])), "z.shape"),
        "rows beyond any memory": (file(_headed(space, shape=[2**62, 4, 4, 4])), "z.shape"),
        "negative rows": (file(_headed(space, shape=[-1, 4, 4, 4])), "z.shape"),
        "no rows": (file(_headed(space, shape=[0, 4, 4, 4]), b""), "z.shape"),
        "ten thousand dimensions": (file(_headed(space, shape=[1] * 5000)), "z.shape"),
        "offsets that overlap": (file(_headed(space, data_offsets=[0, 128])), "z.data_offsets"),
        "offsets out of range": (
            file(_headed(space, data_offsets=[2**40, 2**40 + 256])),
            "z.data_offsets",
        ),
        "two tensors over the same bytes": (file(second), "header"),
        "another latent space": (file(_headed("0" * 32)), "latent_space"),
        "a level of its own": (
            file({**_headed(space), "__metadata__": _metadata(space, lambda_0="nan")}),
            "lambda_0",
        ),
    }


def _metadata(space: str, **more: str) -> dict[str, str]:
    return {"kind": "z_0", "latent_space": space, **more}


def _values(space: str) -> dict[str, tuple[bytes, str]]:
    header = _headed(space)
    odd = {"NaN": float("nan"), "infinity": float("inf"), "1e30": 1e30}
    spoilt = {
        name: (file(header, _DATA[:-4] + struct.pack("<f", value)), "z")
        for name, value in odd.items()
    }
    return {
        **spoilt,
        "truncated": (file(header, _DATA[:-1]), "body"),
        "with a megabyte behind": (file(header, _DATA + bytes(2**20)), "body"),
    }
