"""Answers: items with receipts in a JSON envelope, or one item's bytes with its receipt beside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from unified_latents.service.engine.messages import (
    Array,
    Decode,
    Encode,
    Generate,
    ModelCard,
    Ready,
    Request,
)
from unified_latents.service.http import clips
from unified_latents.service.http.images import Fit
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import JSON, Choice, Format
from unified_latents.service.http.schemas import ImagesResponse, Item, Receipt


@dataclass(frozen=True)
class Receipts:
    """Makes the receipts of one request's files in `format`.

    `source` is the digest of the picture that was encoded; `fit` how it was brought to size.
    """

    ready: Ready
    card: ModelCard
    request: Request
    format: Format
    source: str | None = None
    fit: Fit | None = None

    def of(self, sample: int, data: bytes, *, n: int = 1) -> Receipt:
        """The receipt of one file of `n` samples; `sample` counts from the request's first."""
        request = self.request
        common: dict[str, Any] = {
            "model": self.card.name,
            "digest": self.card.digest,
            "kernel_set": self.ready.kernel_set,
            "numerics": self.ready.numerics(request.strict),
            "codec": clips.codec(self.format),
            "format": self.format,
            "seed": request.seed,
            "n": n,
            "strict": request.strict,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        match request:
            case Generate():
                return Receipt(**common, **_generated(request, sample))
            case Decode():
                return Receipt(**common, **_decoded(request, sample))
            case Encode():
                common |= {"fit": self.fit, "input_sha256": self.source}
                return Receipt(**common, **_encoded(request))


def _generated(request: Generate, sample: int) -> dict[str, Any]:
    stages = {"base": request.base}
    if request.decode is not None:
        stages["decode"] = request.decode
    return {
        "operation": "generate",
        "sampler": {name: how.sampler for name, how in stages.items()},
        "steps": {name: how.steps for name, how in stages.items()},
        "sample": request.first + sample,
        "guidance": request.guidance,
        "guidance_interval": request.interval,
        "label": request.label,
        "input_sha256": hashlib.sha256(request.frames.data).hexdigest() if request.frames else None,
    }


def _decoded(request: Decode, sample: int) -> dict[str, Any]:
    return {
        "operation": "decode",
        "sampler": {"decode": request.decode.sampler},
        "steps": {"decode": request.decode.steps},
        "sample": request.first + sample,
        "kind": request.kind,
        "input_sha256": hashlib.sha256(rows(request.z)[sample]).hexdigest(),
    }


def _encoded(request: Encode) -> dict[str, Any]:
    return {
        "operation": "encode",
        "sampler": {},
        "steps": {},
        "sample": 0,
        "kind": request.kind,
    }


def headers(receipt: Receipt) -> dict[str, str]:
    """What travels beside bare bytes."""
    return {
        "UL-Seed": str(receipt.seed),
        "UL-Receipt": receipt.model_dump_json(ensure_ascii=True),
    }


def answer(receipts: Receipts, files: Sequence[bytes], choice: Choice, n: int = 1) -> Response:
    """The response: bare bytes are the first file, whole, of `n` samples."""
    if choice.bare:
        receipt = receipts.of(0, files[0], n=n)
        return Response(files[0], media_type=choice.media_type, headers=headers(receipt))
    return Response(envelope(receipts, files, choice).model_dump_json(), media_type=JSON)


def envelope(receipts: Receipts, files: Sequence[bytes], choice: Choice) -> ImagesResponse:
    """All files with their receipts."""
    items = []
    for i, data in enumerate(files):
        receipt = receipts.of(i, data)
        items.append(
            Item(
                b64=base64.b64encode(data).decode(),
                media_type=choice.media_type,
                seed=receipt.seed,
                sample=receipt.sample,
                receipt=receipt,
            )
        )
    return ImagesResponse(model=receipts.card.name, data=items)


def latent_files(z: Array, card: ModelCard, *, whole: bool) -> list[bytes]:
    """z_0 as one file, or as one file a sample."""
    if whole:
        return [write(z, "z_0", card)]
    shape = (1, *z.shape[1:])
    return [write(Array(shape, z.dtype, row), "z_0", card) for row in rows(z)]


def rows(z: Array) -> list[bytes]:
    """The bytes of each sample."""
    size = len(z.data) // z.shape[0]
    return [z.data[i * size : (i + 1) * size] for i in range(z.shape[0])]
