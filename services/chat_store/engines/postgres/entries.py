"""Tasks and events, one row each; what was removed is only among what happened."""

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.acts import PostgresActs, find_entry
from services.chat_store.engines.postgres.database import Database, missing
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.selection import Entries, EntrySelection, Reach
from shared.errors import NotFound


class PostgresEntries:
    """EntryStore over one database."""

    def __init__(self, database: Database, acts: PostgresActs) -> None:
        self._database = database
        self.act = acts.on_entry

    async def get(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str) -> Entry:
        """See EntryStore.get."""
        await self._check_reach(reach, conversation_id)
        async with self._database.transaction(reach.tenant_id) as connection:
            entry = await find_entry(connection, reach.tenant_id, conversation_id, kind, entry_id)
        if entry is None:
            raise NotFound(kind.value, entry_id)
        return entry

    async def select(self, reach: Reach, conversation_id: str, selection: EntrySelection) -> Entries:
        """In the order of an index."""
        await self._check_reach(reach, conversation_id)
        after = (None, None) if selection.after is None else (selection.after.time, rows.plain(selection.after.id))
        wanted = """
            select facts from entries
             where tenant_id = $1 and conversation_id = $2 and kind = $3 and ($4 = '' or label = $4)
               and ($5::timestamptz is null or (create_time, entry_id) < ($5, $6::text))
             order by create_time desc, entry_id desc limit $7
        """
        asked = (selection.kind.value, rows.plain(selection.label), *after, selection.limit + 1)
        async with self._database.transaction(reach.tenant_id) as connection:
            found = await connection.fetch(wanted, reach.tenant_id, conversation_id, *asked)
        entries = tuple(rows.load(Entry, row["facts"]) for row in found)
        return Entries(entries[: selection.limit], len(entries) > selection.limit)

    async def _check_reach(self, reach: Reach, conversation_id: str) -> None:
        called = self._database.called(reach, conversation_id)
        found = "select 1 from version($1, $2, $3, $4, $5)"
        if not await self._database.call(found, *called, reach.deleted, self._database.now()):
            raise missing(conversation_id)
