"""Latents on the wire: safetensors with one tensor `z` [n, c, …] and four strings of metadata.

Everything a body claims (header length, keys, dtype, shape, offsets, length, digest, finiteness)
is checked against the bytes that are there before anything is allocated for it.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save

from unified_latents.service.engine.lengths import is_clip, stride
from unified_latents.service.engine.messages import Array, LatentKind, ModelCard
from unified_latents.service.http.problems import FieldError, Problem, invalid

MAX_VALUE = 1e4
"""Latents have a standard deviation near 1; the networks overflow far above this."""
MAX_HEADER = 16 * 2**10
_PREFIX = 8
_KINDS: tuple[LatentKind, ...] = ("z_clean", "z_0")


@dataclass(frozen=True)
class Latent:
    """A checked latent."""

    z: Array
    kind: LatentKind


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: list[int]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    z: _Tensor
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


def write(z: Array, kind: LatentKind, card: ModelCard) -> bytes:
    """The file for latents of a model; equal latents give equal bytes."""
    values = np.frombuffer(z.data, "<f4").reshape(z.shape)
    metadata = {
        "kind": kind,
        "latent_space": card.latent_space,
        "lambda_0": repr(card.lambda_0),
        "sha256": hashlib.sha256(z.data).hexdigest(),
    }
    return _sorted_header(save({"z": values}, metadata))


def read(body: bytes, card: ModelCard, max_samples: int, max_frames: int) -> Latent:
    """The latent in `body`, for decoding with `card`'s model.

    A clip's may be longer than the model's own, with `max_frames` frames of all samples together.
    A 422 names what is wrong with the file; a latent of another space is a 409.
    """
    header, data = _split(body)
    if header.z.dtype != "F32":
        raise invalid("z.dtype", "must be float32", "F32")
    shape = _shape(header.z.shape, card, max_samples, max_frames)
    size = math.prod(shape) * 4
    if header.z.data_offsets != [0, size]:
        raise invalid("z.data_offsets", "do not fit the shape", f"[0, {size}]")
    if len(data) != size:
        raise invalid("body", "does not have the bytes that the header promises", size)
    kind = _identify(header.metadata, card)
    expected = header.metadata.get("sha256")
    if expected is not None and expected != hashlib.sha256(data).hexdigest():
        raise invalid("sha256", "is not the digest of the tensor's bytes")
    values = np.frombuffer(data, "<f4")
    if not (np.abs(values) <= MAX_VALUE).all():
        raise invalid("z", "holds values that are not finite or too large", MAX_VALUE)
    return Latent(Array(shape, "float32", bytes(data)), kind)


def _split(body: bytes) -> tuple[_Header, memoryview]:
    if len(body) < _PREFIX:
        raise invalid("body", "is not safetensors: it has no header", _PREFIX)
    length = int.from_bytes(body[:_PREFIX], "little")
    if length > MAX_HEADER:
        raise invalid("header", "is too long", MAX_HEADER)
    if length > len(body) - _PREFIX:
        raise invalid("header", "is longer than the body", len(body) - _PREFIX)
    return _header(body[_PREFIX : _PREFIX + length]), memoryview(body)[_PREFIX + length :]


def _header(text: bytes) -> _Header:
    try:
        parsed = json.loads(text, object_pairs_hook=_unique)
        return msgspec.convert(parsed, _Header, strict=True)
    except (ValueError, RecursionError) as error:
        message = "is not that of a safetensors file with one tensor z"
        raise invalid("header", message) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are distinct: two readers must not see two files in one."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate keys")
    return result


def _shape(
    claimed: list[int], card: ModelCard, max_samples: int, max_frames: int
) -> tuple[int, ...]:
    """[n, …latent shape], n within the limit, or of longer clips n and the frames."""
    own = list(card.latent_shape)
    longer = is_clip(card) and len(claimed) == len(own) + 1 and claimed[2] > own[1]
    if claimed[1:] != ([own[0], claimed[2], *own[2:]] if longer else own):
        raise invalid("z.shape", "is not the model's latent shape", str(["n", *own]))
    if not 1 <= claimed[0] <= max_samples:
        raise invalid("z.shape", "its first dimension is out of range", max_samples)
    if longer and claimed[0] * claimed[2] * stride(card) > max_frames:
        raise invalid("z.shape", "has too many frames", max_frames)
    return tuple(claimed)


def _identify(metadata: dict[str, str], card: ModelCard) -> LatentKind:
    kind = next((kind for kind in _KINDS if kind == metadata.get("kind")), None)
    if kind is None:
        raise invalid("kind", "is missing or unknown", " | ".join(_KINDS))
    space = metadata.get("latent_space")
    if space is None:
        raise invalid("latent_space", "is missing", card.latent_space)
    if space != card.latent_space:
        message = "the latent belongs to another latent space"
        error = FieldError(field="latent_space", message=message, limit=card.latent_space)
        raise Problem(409, "latent_space_mismatch", message, [error])
    if not _equals(metadata.get("lambda_0"), card.lambda_0):
        raise invalid("lambda_0", "is not the model's", card.lambda_0)
    return kind


def _equals(text: str | None, number: float) -> bool:
    """Whether the text, if there is one, writes that number."""
    try:
        return text is None or float(text) == number
    except ValueError:
        return False


def _sorted_header(file: bytes) -> bytes:
    """The same file with its metadata in a fixed order: the library's own order is random."""
    length = int.from_bytes(file[:_PREFIX], "little")
    parsed = json.loads(file[_PREFIX : _PREFIX + length])
    parsed["__metadata__"] = dict(sorted(parsed["__metadata__"].items()))
    text = json.dumps(parsed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PREFIX)
    return len(text).to_bytes(_PREFIX, "little") + text + file[_PREFIX + length :]
