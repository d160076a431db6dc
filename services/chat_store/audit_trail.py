"""Reading the audit: pages of entries, the newest first, and the proof that nobody touched the chain."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from services.chat_store.audit_chain import GENESIS, AuditEntry, AuditLink
from services.chat_store.selection import Period
from services.chat_store.store import AuditStore

LINKS_AT_ONCE = 500
# A page ends here even if it is not full: what is asked for may be rare, and an answer must come.
MOST_LINKS_READ = 20_000
EVER = Period()


@dataclass(frozen=True, slots=True)
class TrailSelection:
    """Entries wanted: "" = any; `resource` is what they are about, or lie in; `before` None = from the newest."""

    actor: str = ""
    resource: str = ""
    period: Period = EVER
    before: "TrailPlace | None" = None
    limit: int = 50

    def holds(self, entry: AuditEntry) -> bool:
        """Whether the entry is wanted."""
        within = not self.resource or f"{entry.resource}/".startswith(f"{self.resource}/")
        return within and self.actor in ("", entry.actor) and self.period.holds(entry.time)


@dataclass(frozen=True, slots=True)
class TrailPlace:
    """A place in the chain: before the entry `index` (from 0) of the link with that number."""

    link: int
    index: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entry and its number in the chain, from 1 on without a gap."""

    number: int
    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class Trail:
    """Entries, the newest first; `next` is where the rest begins, None when there is none."""

    entries: tuple[Numbered, ...]
    next: TrailPlace | None


@dataclass(frozen=True, slots=True)
class Proof:
    """How far a chain has been walked. `broken_entry` is the number of the first entry that is not as it was written.

    `end` is the hash of the last link: kept elsewhere, it shows later that nothing was cut off the end.
    """

    links: int = 0
    entries: int = 0
    broken_entry: int = 0
    end: str = GENESIS
    done: bool = False


async def trail(store: AuditStore, tenant_id: str, wanted: TrailSelection) -> Trail:
    """A page of the tenant's entries. May hold fewer than `limit` and still go on."""
    found: list[Numbered] = []
    place, read = wanted.before, 0
    while read < MOST_LINKS_READ:
        links = await _before(store, tenant_id, place)
        for link in links:
            for index, entry in _backwards(link, place):
                if wanted.holds(entry):
                    found.append(Numbered(link.first_entry + index, entry))
                    if len(found) == wanted.limit:
                        return Trail(tuple(found), _place(link, index))
        place = _place(links[-1], 0) if links else None
        if place is None or _all_earlier(links, wanted.period):
            return Trail(tuple(found), None)
        read += len(links)
    return Trail(tuple(found), place)


async def proofs(store: AuditStore, tenant_id: str) -> AsyncGenerator[Proof, None]:
    """Walks the tenant's chain from its beginning; the last proof is `done`."""
    before: AuditLink | None = None
    links = entries = 0
    while page := await store.read(tenant_id, links, LINKS_AT_ONCE):
        for link in page:
            if not (link.follows(before) and link.holds):
                yield Proof(links, entries, entries + 1, _hash_of(before), done=True)
                return
            before, links, entries = link, links + 1, entries + len(link.entries)
        yield Proof(links, entries, 0, link.hash)
    yield Proof(links, entries, 0, _hash_of(before), done=True)


async def _before(store: AuditStore, tenant_id: str, place: TrailPlace | None) -> list[AuditLink]:
    """The links before the place, the latest first; one in whose middle it lies is the first of them."""
    before = 0 if place is None else place.link + bool(place.index)
    return await store.read_back(tenant_id, before, LINKS_AT_ONCE)


def _backwards(link: AuditLink, place: TrailPlace | None) -> Iterator[tuple[int, AuditEntry]]:
    within = place is not None and place.index and place.link == link.number
    end = min(place.index, len(link.entries)) if place is not None and within else len(link.entries)
    for index in reversed(range(end)):
        yield index, link.entries[index]


def _place(link: AuditLink, index: int) -> TrailPlace | None:
    """None at the beginning of the chain."""
    return TrailPlace(link.number, index) if link.number > 1 or index else None


def _all_earlier(links: list[AuditLink], period: Period) -> bool:
    """Entries that waited for a store that was away come late, but never so many links of them in a row."""
    start = period.start
    return start is not None and all(each.time < start for link in links for each in link.entries)


def _hash_of(link: AuditLink | None) -> str:
    return GENESIS if link is None else link.hash
