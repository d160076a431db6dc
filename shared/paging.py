"""Page tokens, opaque to clients and bound to their query and tenant.

A token is a position and a digest of the query, not a permission: a page is read under the caller's tenant
whatever the token says, so an edited token moves its owner only within what the owner may read.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic_core import to_json

from shared.caller import current_caller
from shared.errors import FieldViolation, InvalidArgument

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_VERSION = 1


def page_token(query: Mapping[str, object], position: Mapping[str, JSON]) -> str:
    """The token that continues `query` after `position`; `query` holds every field that shapes the result."""
    content = {"v": _VERSION, "q": _binding(query), "p": dict(position)}
    return base64.urlsafe_b64encode(to_json(content)).decode().rstrip("=")


def page_position(token: str, query: Mapping[str, object]) -> dict[str, Any] | None:
    """The position in the token, or None for the first page ("").

    InvalidArgument: PAGE_TOKEN_INVALID (not ours), PAGE_TOKEN_MISMATCH (another query, or another tenant).
    """
    if not token:
        return None
    content = _decoded(token)
    if content["q"] != _binding(query):
        raise _refused("PAGE_TOKEN_MISMATCH", "page_token belongs to another query")
    position = content["p"]
    if not isinstance(position, dict):
        raise _refused("PAGE_TOKEN_INVALID", "page_token is not valid")
    return position


def page_size(requested: int, *, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAX_PAGE_SIZE) -> int:
    """Items on a page: 0 means the default, more than the maximum is clamped, less than 0 is refused."""
    if requested < 0:
        raise InvalidArgument(violations=[FieldViolation("page_size", "must not be negative", "int32.gte")])
    return min(requested or default, maximum)


def _binding(query: Mapping[str, object]) -> str:
    bound = {"query": dict(sorted(query.items())), "tenant": current_caller().tenant_id}
    return hashlib.sha256(to_json(bound, fallback=str)).hexdigest()[:24]


def _decoded(token: str) -> dict[str, Any]:
    try:
        padded = token + "=" * (-len(token) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("v") != _VERSION or not {"q", "p"} <= content.keys():
        raise _refused("PAGE_TOKEN_INVALID", "page_token is not valid")
    return content


def _refused(reason: str, description: str) -> InvalidArgument:
    return InvalidArgument(description, reason=reason, violations=[FieldViolation("page_token", description, reason)])
