"""Conversations by id and in lists: headers only, in the order of an index."""

from typing import Any

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database
from services.chat_store.model import Conversation
from services.chat_store.selection import Reach, Selection


class PostgresLists:
    """The headers of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def row(self, reach: Reach, conversation_id: str) -> Any:
        """The row of the conversation; None when it is out of reach."""
        called = self._database.called(reach, conversation_id)
        found = "select * from conversation($1, $2, $3, $4, $5)"
        rows_found = await self._database.call(found, *called, reach.deleted, self._database.now())
        return rows_found[0] if rows_found else None

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """See ChatStore.select."""
        conditions, values = _conditions(reach, selection)
        values += [self._database.now(), selection.limit + 1]
        wanted = (
            f"select * from conversations where {' and '.join(conditions)}"  # noqa: S608 no word of it is a client's
            f" and (expire_time is null or expire_time > ${len(values) - 1})"
            f" order by last_activity_time desc, conversation_id desc limit ${len(values)}"
        )
        async with self._database.transaction(reach.tenant_id) as connection:
            found = await connection.fetch(wanted, *values)
        more = len(found) > selection.limit
        return [rows.conversation_of(row) for row in found[: selection.limit]], more


def _conditions(reach: Reach, selection: Selection) -> tuple[list[str], list[Any]]:
    """What must hold, and the values that the conditions name by number."""
    wanted = {
        "tenant_id = {}": reach.tenant_id,
        "user_id = {}": None if reach.user_id is None else rows.plain(reach.user_id),
        "status = any ({}::text[])": sorted(status.value for status in selection.statuses),
        "assistant_id = {}": rows.plain(selection.assistant_id) or None,
        "team_id = {}": rows.plain(selection.team_id) or None,
        "create_time >= {}": rows.bound(selection.created.start),
        "create_time < {}": rows.bound(selection.created.end),
        "last_activity_time >= {}": rows.bound(selection.active.start),
        "last_activity_time < {}": rows.bound(selection.active.end),
    }
    asked = {condition: value for condition, value in wanted.items() if value is not None}
    conditions = [condition.format(f"${number}") for number, condition in enumerate(asked, start=1)]
    values = list(asked.values())
    if selection.after is not None:
        values += [selection.after.time, selection.after.id]
        conditions.append(f"(last_activity_time, conversation_id) < (${len(values) - 1}, ${len(values)})")
    return conditions, values
