"""What is done to conversations, messages and entries: each act is one transaction that holds the conversation's row.

It reads the state, asks the act what becomes of it, and keeps the answer with one row in `happenings`: told by the
feed, a revision of a message, and how a retry is known.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias, cast

import asyncpg

from services.chat_store.acts import Act, ConversationAct, EntryAct, MessageAct
from services.chat_store.batch import text_searched
from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database, latest, locked, missing
from services.chat_store.engines.postgres.messages import beginnings, guests_in
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.long_texts import beside_if_long
from services.chat_store.model import Conversation, Message
from services.chat_store.selection import Reach
from services.chat_store.snapshot import KeptChange
from shared.errors import NotFound

KEEP_CHANGE = """
    insert into happenings (tenant_id, conversation_id, slot, since, kind, place, time, size, request_id, fingerprint,
                            actor, target, target_seq, target_revision, state)
    select tenant_id, conversation_id, slot, create_time, 3, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
      from conversations where tenant_id = $1 and conversation_id = $2
        on conflict do nothing
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A conversation in the hands of one transaction."""

    connection: asyncpg.Connection
    conversation: Conversation
    at: datetime

    @property
    def key(self) -> tuple[str, str]:
        """Tenant and id of the conversation."""
        return self.conversation.tenant_id, self.conversation.conversation_id


# The state afterwards, with its revision if it changed, and whether it did.
Outcome: TypeAlias = tuple[rows.State, bool]
Change: TypeAlias = Callable[[Scene], Awaitable[Outcome]]


class PostgresActs:
    """Acts on what one database keeps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def on_conversation(self, reach: Reach, conversation_id: str, act: ConversationAct) -> Conversation:
        """See ChatStore.act."""

        async def change(scene: Scene) -> Outcome:
            if not act.reaches(scene.conversation, scene.at):
                raise missing(conversation_id)
            after = act.applied(scene.conversation, scene.at)
            if after == scene.conversation:
                return after, False
            state = replace(after, revision=scene.conversation.revision + 1)
            await _update_conversation(scene, state)
            return state, True

        return cast("Conversation", await self._done(reach, conversation_id, act, "conversation", change))

    async def on_message(self, reach: Reach, conversation_id: str, message_id: str, act: MessageAct) -> Message:
        """See ChatStore.revise."""

        async def change(scene: Scene) -> Outcome:
            _check_present(scene)
            wanted = "select * from messages where tenant_id = $1 and conversation_id = $2 and message_id = $3"
            row = await scene.connection.fetchrow(wanted, *scene.key, rows.plain(message_id))
            if row is None:
                raise NotFound("message", message_id)
            before = rows.message_of(row)
            at = max(scene.at, before.update_time or scene.at)
            after = act.applied(scene.conversation, before, at)
            if after == before:
                return before, False
            state = replace(after, revision=before.revision + 1, update_time=at)
            await _update_message(scene, before, state, act)
            return state, True

        return cast("Message", await self._done(reach, conversation_id, act, rows.message_target(message_id), change))

    async def on_entry(
        self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str, act: EntryAct
    ) -> Entry:
        """See EntryStore.act."""

        async def change(scene: Scene) -> Outcome:
            _check_present(scene)
            before = await find_entry(scene.connection, *scene.key, kind, entry_id)
            at = scene.at if before is None else max(scene.at, before.update_time)
            after = act.applied(kind, entry_id, before, at)
            if after == before:
                return after, False
            state = after if before is None else replace(after, revision=before.revision + 1)
            await _update_entry(scene, state)
            return state, True

        target = rows.entry_target(kind, entry_id)
        return cast("Entry", await self._done(reach, conversation_id, act, target, change))

    async def _done(self, reach: Reach, conversation_id: str, act: Act, target: str, change: Change) -> rows.State:
        self._database.called(reach, conversation_id)
        async with self._database.transaction(reach.tenant_id) as connection:
            scene = await self._scene(connection, reach, conversation_id)
            known = await _known(scene, act)
            if known is not None:
                rows.check_repeated(known, act, target)
                return rows.state_of(known)
            state, changed = await change(scene)
            if changed:
                await _keep(scene, act, state)
            return state

    async def _scene(self, connection: asyncpg.Connection, reach: Reach, conversation_id: str) -> Scene:
        row = await locked(connection, reach.tenant_id, conversation_id)
        now = self._database.now()
        conversation = None if row is None else rows.conversation_of(row)
        if conversation is None or not reach.covers(conversation) or conversation.expired(now):
            raise missing(conversation_id)
        return Scene(connection, conversation, latest(now, conversation))


async def find_entry(
    connection: asyncpg.Connection, tenant_id: str, conversation_id: str, kind: EntryKind, entry_id: str
) -> Entry | None:
    """The entry as it is now."""
    place = (tenant_id, conversation_id, kind.value, rows.plain(entry_id))
    wanted = "select facts from entries where tenant_id = $1 and conversation_id = $2 and kind = $3 and entry_id = $4"
    facts = await connection.fetchval(wanted, *place)
    return None if facts is None else rows.load(Entry, facts)


async def keep_guests(connection: asyncpg.Connection, owner: str, key: tuple[str, str], seq: int, *names: str) -> None:
    """Remembers who else than the owner of the conversation has had a hand in it."""
    guests = sorted({rows.plain(name) for name in names} - {"", rows.plain(owner)})
    if guests:
        keep = "insert into guests select $1, unnest($3::text[]), $2, $4 on conflict do nothing"
        await connection.execute(keep, *key, guests, seq)


def change_values(kept: KeptChange) -> tuple[Any, ...]:
    """The arguments of KEEP_CHANGE."""
    state, text = kept.state, rows.dump(kept.state)
    message = (state.seq, state.revision) if isinstance(state, Message) else (None, None)
    return (
        kept.tenant_id,
        kept.conversation_id,
        kept.revision,
        kept.time,
        len(text),
        rows.plain(kept.request_id),
        kept.fingerprint,
        rows.plain(kept.actor),
        rows.target_of(state),
        *message,
        text,
    )


async def _known(scene: Scene, act: Act) -> Any:
    if not act.request_id:
        return None
    wanted = """
        select target, fingerprint, state from happenings
         where tenant_id = $1 and conversation_id = $2 and kind = 3 and request_id = $3 and request_id <> ''
    """
    return await scene.connection.fetchrow(wanted, *scene.key, rows.plain(act.request_id))


async def _keep(scene: Scene, act: Act, state: rows.State) -> None:
    kept = KeptChange.of(scene.conversation, scene.conversation.revision + 1, act, scene.at, state)
    named = (act.actor, state.actor) if isinstance(state, Entry) else (act.actor,)
    await keep_guests(scene.connection, scene.conversation.user_id, scene.key, 0, *named)
    await scene.connection.execute(KEEP_CHANGE, *change_values(kept))
    if not isinstance(state, Conversation):
        count = "update conversations set revision = $3 where tenant_id = $1 and conversation_id = $2"
        await scene.connection.execute(count, *scene.key, kept.revision)


async def _update_conversation(scene: Scene, state: Conversation) -> None:
    columns = rows.columns_of(state)
    assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, start=3))
    update = f"update conversations set {assignments} where tenant_id = $1 and conversation_id = $2"  # noqa: S608
    await scene.connection.execute(update, *scene.key, *columns.values())


async def _update_message(scene: Scene, before: Message, state: Message, act: MessageAct) -> None:
    body = state.draft.body
    update = """
        update messages
           set changed = $4, size = $5,
               bodies = case when $6 = '' or $6 = any (bodies) then bodies else bodies || $6 end
         where tenant_id = $1 and conversation_id = $2 and seq = $3
    """
    size, sha256 = state.draft.size_bytes, body.sha256 if body else ""
    await scene.connection.execute(update, *scene.key, state.seq, rows.dump(state), size, sha256)
    if state.seq == scene.conversation.totals.messages:
        show = "update conversations set preview = $3 where tenant_id = $1 and conversation_id = $2"
        await scene.connection.execute(show, *scene.key, rows.plain(state.draft.preview))
    for digest, content in act.bodies.items():
        keep = "insert into bodies values ($1, $2, $3, $4) on conflict do nothing"
        await scene.connection.execute(keep, *scene.key, digest, content)
    if state.draft != before.draft:
        bodies = await beginnings(scene.connection, scene.key, [sha256] if sha256 else [])
        words = text_searched(state.draft, bodies)
        terms = await beside_if_long(len(words), rows.terms_in, scene.conversation.tenant_id, words)
        change = """
            update message_terms set terms = $4::text::bigint[]
             where tenant_id = $1 and conversation_id = $2 and seq = $3
        """
        await scene.connection.execute(change, *scene.key, state.seq, terms)
    await keep_guests(scene.connection, scene.conversation.user_id, scene.key, state.seq, *guests_in(state))


async def _update_entry(scene: Scene, state: Entry) -> None:
    place = (*scene.key, state.kind.value, rows.plain(state.entry_id))
    if state.removed:
        remove = "delete from entries where tenant_id = $1 and conversation_id = $2 and kind = $3 and entry_id = $4"
        await scene.connection.execute(remove, *place)
        return
    keep = """
        insert into entries values ($1, $2, $3, $4, $5, $6, $7)
            on conflict (tenant_id, conversation_id, kind, entry_id)
            do update set label = excluded.label, create_time = excluded.create_time, facts = excluded.facts
    """
    await scene.connection.execute(keep, *place, rows.plain(state.label), state.create_time, rows.dump(state))


def _check_present(scene: Scene) -> None:
    if scene.conversation.gone(scene.at):
        raise missing(scene.conversation.conversation_id)
