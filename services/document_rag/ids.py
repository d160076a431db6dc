"""Ids as callers send them, and as PostgreSQL keeps them."""

from collections.abc import Sequence
from uuid import UUID

from shared.errors import NotFound


def uuid_of(text: str) -> UUID | None:
    """The id as kept, or None, which equals no row, for text that cannot be one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def uuids(ids: Sequence[str]) -> list[UUID]:
    """The ids that can exist; one that is no UUID names nothing."""
    return [found for each in ids if (found := uuid_of(each)) is not None]


def required_uuid(kind: str, text: str) -> UUID:
    """The id as kept; NotFound, as for a missing one, for text that cannot be one."""
    found = uuid_of(text)
    if found is None:
        raise NotFound(kind, text)
    return found
