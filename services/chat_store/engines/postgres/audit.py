"""The audit chains: one row per link, its place in the key, so that each place is taken once. A trigger keeps them."""

from pydantic import TypeAdapter

from services.chat_store.audit_chain import AuditEntry, AuditLink
from services.chat_store.engines.postgres.database import Database
from services.chat_store.engines.postgres.rows import Row

KEEP_LINK = "select keep_link($1, $2, $3, $4, $5, $6) as kept"
_ENTRIES = TypeAdapter(tuple[AuditEntry, ...])


class PostgresAudit:
    """AuditStore over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, link: AuditLink) -> bool:
        """See AuditStore.add."""
        (row,) = await self._database.call(KEEP_LINK, *link_values(link))
        kept: bool = row["kept"]
        return kept

    async def last(self, tenant_id: str) -> AuditLink | None:
        """See AuditStore.last."""
        links = await self.read_back(tenant_id, 0, 1)
        return links[0] if links else None

    async def read(self, tenant_id: str, after_number: int, limit: int) -> list[AuditLink]:
        """See AuditStore.read."""
        wanted = "select * from audit_links where tenant_id = $1 and number > $2 order by number limit $3"
        async with self._database.transaction(tenant_id) as connection:
            return [link_of(row) for row in await connection.fetch(wanted, tenant_id, after_number, limit)]

    async def read_back(self, tenant_id: str, before_number: int, limit: int) -> list[AuditLink]:
        """See AuditStore.read_back."""
        wanted = """
            select * from audit_links where tenant_id = $1 and ($2 = 0 or number < $2) order by number desc limit $3
        """
        async with self._database.transaction(tenant_id) as connection:
            return [link_of(row) for row in await connection.fetch(wanted, tenant_id, before_number, limit)]


def link_values(link: AuditLink) -> tuple[object, ...]:
    """The arguments of KEEP_LINK."""
    entries = _ENTRIES.dump_json(link.entries).decode()
    return link.tenant_id, link.number, link.first_entry, entries, link.previous_hash, link.hash


def link_of(row: Row) -> AuditLink:
    """The link of a row of `audit_links`."""
    tenant_id, number, first_entry, entries, previous_hash, digest = row
    return AuditLink(tenant_id, number, first_entry, _ENTRIES.validate_json(entries), previous_hash, digest)
