"""What a webhook tells, once its signature is that of somebody who has the secret."""

from __future__ import annotations

import json
from collections.abc import Mapping

from standardwebhooks.webhooks import (
    EmptyWebhookSecretError,
    Webhook,
    WebhookVerificationError,
)

from unified_latents.service.client.errors import SignatureError
from unified_latents.service.client.results import Notice


def read_webhook(body: bytes, headers: Mapping[str, str], secret: str) -> Notice:
    """The notice in a request's body, as it came; `SignatureError` where anything is not right.

    `secret` is one of the service's (`whsec_…`). A signature is good for five minutes. A notice may
    come twice: `Notice.delivery` is then the same.
    """
    kept = {name.lower(): value for name, value in headers.items()}
    try:
        Webhook(secret).verify(body, kept, json_parse=False)
    except (WebhookVerificationError, EmptyWebhookSecretError, ValueError) as error:
        raise SignatureError(f"this is no webhook of the secret's: {error}") from error
    return Notice.of(kept["webhook-id"], json.loads(body))
