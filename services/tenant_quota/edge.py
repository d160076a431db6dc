"""The edge: a proxy that asks before it lets a request through. What it may ask about."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.tenant_quota.edge_callers import EdgeCallers
from services.tenant_quota.rates import Standing, Subject, Verdict, concerned
from shared.errors import FieldViolation, InvalidArgument

MOST_DESCRIPTORS = 20
_NAMES = frozenset({"tenant_id", "user_id", "key_id"})
_AUTHORIZATION = "authorization"
_DOMAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_TENANT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Whom a request concerns, by one of its descriptors, and how many requests it counts for."""

    subjects: tuple[Subject, ...]
    hits: int

    def tightest(self, verdict: Verdict) -> Standing | None:
        """The limit that matters most to this descriptor: the fullest; None when nothing limits it."""
        own = [standing for standing in verdict.standings if standing.share.subject in self.subjects]
        return tightest(own)


class Descriptors:
    """Reads descriptors: `tenant_id` with `user_id` and `key_id` as far as known, or `authorization`."""

    def __init__(self, callers: EdgeCallers) -> None:
        self._callers = callers

    async def read(self, entries: Mapping[str, str], hits: int) -> Descriptor:
        """Whom the entries name. Nobody, who has no limit, when they are of another kind or form."""
        if entries.keys() == {_AUTHORIZATION}:
            return Descriptor(await self._callers.subjects(entries[_AUTHORIZATION]), hits)
        named = "tenant_id" in entries and entries.keys() <= _NAMES
        return Descriptor(_named(entries) if named else (), hits)


def hits_of(descriptors: Iterable[Descriptor]) -> Mapping[Subject, int]:
    """What the whole request costs each subject: named twice, it is still one request."""
    hits: dict[Subject, int] = {}
    for descriptor in descriptors:
        for subject in descriptor.subjects:
            hits[subject] = max(hits.get(subject, 0), descriptor.hits)
    return hits


def tightest(standings: Iterable[Standing]) -> Standing | None:
    """One that refused, the longest to wait for, before one with room, the least of it."""

    def room(standing: Standing) -> tuple[float, int]:
        wait = float("inf") if standing.wait_seconds is None else standing.wait_seconds
        return -wait, standing.remaining

    return min(standings, key=room, default=None)


def clean_domain(domain: str) -> str:
    """What the edge counts in, which is never what ReserveTokens counts in; InvalidArgument when it is no name."""
    if not _DOMAIN.fullmatch(domain):
        text = "must be 1 to 64 letters, digits, dots, dashes and underscores"
        raise InvalidArgument(violations=[FieldViolation("domain", text, "domain.name")])
    return f"edge/{domain}"


def _named(entries: Mapping[str, str]) -> tuple[Subject, ...]:
    """What nobody can be called reaches no store."""
    known = {name: value for name, value in entries.items() if value}
    if not _TENANT_ID.fullmatch(known.get("tenant_id", "")) or not all(map(_ID.fullmatch, known.values())):
        return ()
    return tuple(concerned(known["tenant_id"], known.get("user_id", ""), known.get("key_id", "")))
