"""What people said in the conversations of others: forgotten in every place that keeps it, and searched for.

`guests` names those who had a hand in a conversation of somebody else, so that forgetting need not look at everything.
The search for what is left does.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import asyncpg

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database, locked
from services.chat_store.engines.postgres.messages import author_of, drop_unsaid_texts
from services.chat_store.entries import Entry
from services.chat_store.model import Conversation, Draft, Message

_OWN = "where tenant_id = $1 and conversation_id = $2"
_SCANNED = {
    "conversations": "user_id = $2",
    "messages": "(said like $3 or changed like $3)",
    "guests": "user_id = $2",
    "entries": "facts like $4",
    "happenings": "(actor = $2 or state like $3 or state like $4)",
}


class PostgresAuthors:
    """The authors of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See Upkeep.forget_author. A conversation at a time: a crash leaves what the next call finds."""
        next_one = "select min(conversation_id) from guests where tenant_id = $1 and user_id = $2"
        forgotten = Counter[str]()
        while True:
            async with self._database.transaction(tenant_id) as connection:
                conversation_id = await connection.fetchval(next_one, tenant_id, rows.plain(user_id))
                if conversation_id is None:
                    return dict(forgotten)
                await locked(connection, tenant_id, conversation_id)
                forgotten += await _Forgetting(connection, (tenant_id, conversation_id), user_id).all()

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See Upkeep.residue: rows that name the user in any field that names somebody."""
        name = json.dumps(user_id, ensure_ascii=False)
        asked = (tenant_id, rows.plain(user_id), f'%"user_id":{_like(name)}%', f'%"actor":{_like(name)}%')
        found = {}
        async with self._database.transaction(tenant_id) as connection:
            for place, names in _SCANNED.items():
                # Every parameter is mentioned, so that each place is asked the same way.
                scan = f"select count(*) from {place} where tenant_id = $1 and {names} and ($2 || $3 || $4) is not null"  # noqa: S608
                found[place] = await connection.fetchval(scan, *asked)
        return found


class _Forgetting:
    """One user leaves one conversation of somebody else."""

    def __init__(self, connection: asyncpg.Connection, key: tuple[str, str], user_id: str) -> None:
        self._connection = connection
        self._key = key
        self._user_id = user_id
        self._counts = Counter[str]()
        self._previews = set[str]()

    async def all(self) -> Counter[str]:
        """Blanks all that the user said, did and wrote there; how much of what that was."""
        took = f"delete from guests {_OWN} and user_id = $3 returning seq"  # noqa: S608
        places = [row["seq"] for row in await self._connection.fetch(took, *self._key, rows.plain(self._user_id))]
        for seq in sorted(set(places) - {0}):
            await self._message(seq)
        await self._changes()
        await self._entries()
        await self._header()
        return self._counts

    async def _message(self, seq: int) -> None:
        row = await self._connection.fetchrow(f"select * from messages {_OWN} and seq = $3", *self._key, seq)  # noqa: S608
        if row is None:
            return
        said, now = rows.said_of(row), rows.message_of(row)
        is_theirs = author_of(said.draft) == self._user_id
        self._counts["messages"] += is_theirs
        self._counts["feedback"] += now.feedback is not None and now.feedback.user_id == self._user_id
        changed = None if row["changed"] is None else rows.dump(self._forgotten(now))
        keep = f"update messages set said = $4, changed = $5 {_OWN} and seq = $3"  # noqa: S608
        await self._connection.execute(keep, *self._key, seq, rows.dump(self._forgotten(said).draft), changed)
        if is_theirs:
            self._previews.add(said.draft.preview)
            await self._drop_words(seq, row["bodies"])

    async def _drop_words(self, seq: int, texts: Sequence[str]) -> None:
        await self._connection.execute(f"update message_terms set terms = '{{}}' {_OWN} and seq = $3", *self._key, seq)  # noqa: S608
        await self._connection.execute(f"update messages set bodies = '{{}}' {_OWN} and seq = $3", *self._key, seq)  # noqa: S608
        await drop_unsaid_texts(self._connection, self._key, texts)

    async def _changes(self) -> None:
        wanted = f"select place, target, state, actor from happenings {_OWN} and kind = 3"  # noqa: S608
        keep = f"update happenings set state = $4, actor = $5 {_OWN} and kind = 3 and place = $3"  # noqa: S608
        changes = [(row, rows.state_of(row)) for row in await self._connection.fetch(wanted, *self._key)]
        revisions = (state.draft for _, state in changes if isinstance(state, Message))
        self._previews |= {draft.preview for draft in revisions if author_of(draft) == self._user_id}
        for row, before in changes:
            state = rows.dump(self._forgotten_state(before))
            actor = "" if rows.spoken(row["actor"]) == self._user_id else row["actor"]
            if (state, actor) != (row["state"], row["actor"]):
                await self._connection.execute(keep, *self._key, row["place"], state, actor)
                self._counts["happenings"] += 1

    async def _entries(self) -> None:
        keep = f"update entries set facts = $5 {_OWN} and kind = $3 and entry_id = $4"  # noqa: S608
        for row in await self._connection.fetch(f"select * from entries {_OWN}", *self._key):  # noqa: S608
            entry = rows.load(Entry, row["facts"])
            if entry.actor == self._user_id:
                facts = rows.dump(replace(entry, actor=""))
                await self._connection.execute(keep, *self._key, row["kind"], row["entry_id"], facts)
                self._counts["entries"] += 1

    async def _header(self) -> None:
        """What a cache holds is of another version from here on."""
        preview = "preview = case when preview = any ($3) then '' else preview end"
        keep = f"update conversations set revision = revision + 1, {preview} {_OWN}"  # noqa: S608
        await self._connection.execute(keep, *self._key, [rows.plain(preview) for preview in self._previews])

    def _forgotten_state(self, state: rows.State) -> rows.State:
        if isinstance(state, Message):
            return self._forgotten(state)
        if isinstance(state, Conversation):
            return replace(state, preview="") if state.preview in self._previews else state
        return replace(state, actor="") if state.actor == self._user_id else state

    def _forgotten(self, message: Message) -> Message:
        """The message without what the user said in it and about it."""
        if author_of(message.draft) == self._user_id:
            message = replace(message, draft=_blank(message.draft))
        if message.feedback is not None and message.feedback.user_id == self._user_id:
            message = replace(message, feedback=None)
        return message


def _blank(draft: Draft) -> Draft:
    return replace(draft, text="", user_id="", references=(), metadata="", parts=(), body=None)


def _like(text: str) -> str:
    """As a pattern that means only itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
