"""Secrets of webhooks, and the signatures made with them as Standard Webhooks says.

A secret is derived from the pepper and the webhook's name and version, so it is kept nowhere and can be neither read
nor lost with the database. A changed pepper changes every secret: rotating each then shows it again.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

PREFIX = "whsec_"


class WebhookSecrets:
    """Knows the secret of every webhook."""

    def __init__(self, pepper: SecretStr) -> None:
        # A key of its own: what is known of a signature says nothing of the hashes of API keys.
        self._key = hmac.digest(pepper.get_secret_value().encode(), b"prosa webhook secrets", hashlib.sha256)

    def secret(self, tenant_id: str, webhook_id: str, version: int) -> str:
        """As its owner keeps it: whsec_<base64 of 32 bytes>."""
        name = "\0".join((tenant_id, webhook_id, str(version))).encode()
        return PREFIX + base64.b64encode(hmac.digest(self._key, name, hashlib.sha256)).decode()


def signed_headers(delivery_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> Mapping[str, str]:
    """The headers of a delivery; one signature for each secret that is good. `timestamp` in seconds since the epoch."""
    content = b"%s.%d.%s" % (delivery_id.encode(), timestamp, body)
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(content, secret)}" for secret in secrets),
    }


def _signature(content: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
