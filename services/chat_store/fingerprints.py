"""What two requests with the same request_id must have in common."""

import hashlib
from collections.abc import Sequence

from pydantic_core import to_json


def digest_of(facts: Sequence[object]) -> str:
    """SHA-256 of the facts in their order, each something that JSON can say."""
    return hashlib.sha256(to_json(facts)).hexdigest()
