"""What two requests with the same request_id must have in common."""

import hashlib
import json
from collections.abc import Sequence

_canonical = json.JSONEncoder(separators=(",", ":"))


def digest_of(facts: Sequence[object]) -> str:
    """SHA-256 of the facts in their order, each something that JSON can say."""
    return hashlib.sha256(_canonical.encode(facts).encode()).hexdigest()
