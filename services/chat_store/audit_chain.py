"""Who did what, in a chain of which no link can be changed or taken out unnoticed.

Entries are kept in links, several to each, because they are written together. A link's hash covers its number, its
entries and the hash of the link before; the first one follows GENESIS.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One call: `actor` did `action` to `resource` ("" = none named) with `outcome`.

    `on_behalf_of` is the service that called for the actor, "" when they called themselves. `outcome` is OK, STARTED
    (a stream that began), CANCELLED, or the reason of an error.
    """

    time: datetime
    actor: str
    on_behalf_of: str
    action: str
    resource: str
    outcome: str


@dataclass(frozen=True, slots=True)
class AuditLink:
    """Entries of one tenant that were written together; `number` counts from 1, `first_entry` is that of the first."""

    tenant_id: str
    number: int
    first_entry: int
    entries: tuple[AuditEntry, ...]
    previous_hash: str
    hash: str

    @property
    def holds(self) -> bool:
        """Whether its hash is that of its content."""
        return self.hash == _hash(self.tenant_id, self.number, self.first_entry, self.entries, self.previous_hash)

    def follows(self, before: "AuditLink | None") -> bool:
        """Whether it is the one after `before` (None = the first of all)."""
        return (self.number, self.first_entry, self.previous_hash) == _place_after(before)


def next_link(tenant_id: str, before: AuditLink | None, entries: Sequence[AuditEntry]) -> AuditLink:
    """The link that holds the entries and follows `before` (None = the first of all)."""
    number, first_entry, previous_hash = _place_after(before)
    kept = tuple(entries)
    digest = _hash(tenant_id, number, first_entry, kept, previous_hash)
    return AuditLink(tenant_id, number, first_entry, kept, previous_hash, digest)


def _place_after(before: AuditLink | None) -> tuple[int, int, str]:
    if before is None:
        return 1, 1, GENESIS
    return before.number + 1, before.first_entry + len(before.entries), before.hash


def _hash(tenant_id: str, number: int, first_entry: int, entries: Sequence[AuditEntry], previous_hash: str) -> str:
    facts = [[each.time.isoformat(), *(getattr(each, name) for name in AuditEntry.__slots__[1:])] for each in entries]
    content = json.dumps([tenant_id, number, first_entry, facts, previous_hash], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
