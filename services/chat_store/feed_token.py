"""Resume tokens of the feed: an engine's position, opaque to consumers, bound to the feed that gave it out.

The digest tells our tokens from other text and one tenant's feed from another's; it is no permission: what a feed
tells is decided by the caller alone.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from shared.errors import FieldViolation, InvalidArgument

_DIGEST_CHARACTERS = 16


def feed_token(engine: str, tenant_id: str, position: Mapping[str, str | int]) -> str:
    """The token for `position` in the feed of `tenant_id` ("" = of all tenants)."""
    text = json.dumps(position, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(f"{_digest(engine, tenant_id, text)}{text}".encode()).decode().rstrip("=")


def feed_position(engine: str, tenant_id: str, token: str) -> dict[str, Any]:
    """The position in the token; InvalidArgument with reason RESUME_TOKEN_INVALID when it is not of this feed."""
    try:
        padded = token + "=" * (-len(token) % 4)
        content = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise refused_token() from None
    digest, text = content[:_DIGEST_CHARACTERS], content[_DIGEST_CHARACTERS:]
    if digest != _digest(engine, tenant_id, text):
        raise refused_token()
    try:
        position = json.loads(text)
    except (ValueError, RecursionError):
        raise refused_token() from None
    if not isinstance(position, dict):
        raise refused_token()
    return position


def refused_token() -> InvalidArgument:
    """The refusal of a token that no store made, whatever of it shows that."""
    reason, description = "RESUME_TOKEN_INVALID", "resume_token is not valid"
    return InvalidArgument(description, reason=reason, violations=[FieldViolation("resume_token", description, reason)])


def _digest(engine: str, tenant_id: str, text: str) -> str:
    return hashlib.sha256(f"prosa-feed-1\0{engine}\0{tenant_id}\0{text}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
