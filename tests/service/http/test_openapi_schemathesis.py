"""Requests made from the OpenAPI document, good and bad, against the application it describes."""

from __future__ import annotations

import asyncio
from typing import Any

import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.http.bodies import BINARY, IMAGES
from unified_latents.service.http.negotiation import LATENT
from unified_latents.service.keys import SCOPES, KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

EXAMPLES = 20
SECRET, KEY = create("everything", SCOPES)


@schemathesis.serializer(*IMAGES, LATENT, BINARY)
def binary(context: schemathesis.SerializationContext, value: Any) -> bytes | None:
    """Bytes go out as they were made."""
    made = getattr(value, "data", value)  # a string that stands for bytes
    return made if isinstance(made, bytes) else str(made).encode()


def document() -> schemathesis.BaseSchema:
    """What the application says of itself, an engine in memory behind it."""
    engine = FakeEngine(fake_card(), fake_card("plain", "autoencoder"))
    asyncio.run(engine.start())
    limits = Settings(max_body=64 * 1024, max_pixels=10_000, max_samples=4)
    app = create_app(limits, engine, Metrics(), KeyRing([KEY]))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@document().parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
def test_every_answer_is_one_that_the_document_promises(case: schemathesis.Case[Any]) -> None:
    """No 5xx, and only documented statuses, types and bodies.

    That what fits the schema is accepted cannot be asked: no schema makes a PNG, a latent of the
    right space, or a label that this model has.
    """
    headers = {"Authorization": f"Bearer {SECRET}"}
    case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])
