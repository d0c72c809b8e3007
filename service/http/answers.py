"""Answers: items with receipts in a JSON envelope, or one item's bytes with its receipt beside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Response

from unified_latents.service.engine.messages import (
    Array,
    Decode,
    Generate,
    ModelCard,
    Ready,
    Trajectory,
)
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import JSON, Choice
from unified_latents.service.http.schemas import ImagesResponse, Item, Receipt


@dataclass(frozen=True)
class Receipts:
    """Makes the receipts of one request."""

    ready: Ready
    card: ModelCard
    request: Generate | Decode

    def of(self, sample: int, data: bytes) -> Receipt:
        """The receipt of one file; `sample` counts from the request's first."""
        request = self.request
        generated = request if isinstance(request, Generate) else None
        stages: dict[str, Trajectory | None] = {
            "base": generated.base if generated else None,
            "decode": request.decode,
        }
        return Receipt(
            model=self.card.name,
            digest=self.card.digest,
            kernel_set=self.ready.kernel_set,
            numerics=self.ready.numerics(request.strict),
            sampler={name: how.sampler for name, how in stages.items() if how},
            steps={name: how.steps for name, how in stages.items() if how},
            seed=request.seed,
            sample=request.first + sample,
            guidance=generated.guidance if generated else None,
            guidance_interval=generated.interval if generated else None,
            label=generated.label if generated else None,
            strict=request.strict,
            sha256=hashlib.sha256(data).hexdigest(),
        )


def answer(receipts: Receipts, files: Sequence[bytes], choice: Choice) -> Response:
    """The response: bare bytes are the first file, whole."""
    if choice.bare:
        receipt = receipts.of(0, files[0])
        headers = {"UL-Seed": str(receipt.seed), "UL-Receipt": receipt.model_dump_json()}
        return Response(files[0], media_type=choice.media_type, headers=headers)
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
    body = ImagesResponse(model=receipts.card.name, data=items)
    return Response(body.model_dump_json(), media_type=JSON)


def latent_files(z: Array, card: ModelCard, *, whole: bool) -> list[bytes]:
    """z_0 as one file, or as one file a sample."""
    if whole:
        return [write(z, "z_0", card)]
    size = len(z.data) // z.shape[0]
    rows = [z.data[i * size : (i + 1) * size] for i in range(z.shape[0])]
    return [write(Array((1, *z.shape[1:]), z.dtype, row), "z_0", card) for row in rows]
