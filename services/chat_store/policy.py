"""What a tenant wants kept, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What a tenant wants kept, and for how long; 0 = no limit (`purge_after_days`: at once).

    `retention_days` count from the last activity. `max_messages`: at least so many of the newest messages of a
    conversation stay; older ones leave in whole appends. `ttl_seconds` is what a new conversation gets by default.
    """

    retention_days: int = 0
    max_messages: int = 0
    ttl_seconds: int = 0
    purge_after_days: int = 30
