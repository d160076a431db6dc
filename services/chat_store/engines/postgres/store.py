"""Conversations in PostgreSQL: one row per message, one header per conversation, one row for whatever happened.

Every write is one transaction that holds the header, so `seq` is dense and nobody has to try again; what the feed
tells is written in it (schema/0001). Appending, a page and a version are one round trip each (schema/0002).
"""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import asyncpg

from services.chat_store.batch import Batch, text_searched
from services.chat_store.engines.postgres.acts import PostgresActs
from services.chat_store.engines.postgres.audit import PostgresAudit
from services.chat_store.engines.postgres.database import Database, missing
from services.chat_store.engines.postgres.entries import PostgresEntries
from services.chat_store.engines.postgres.feed import PostgresFeed
from services.chat_store.engines.postgres.lists import PostgresLists
from services.chat_store.engines.postgres.messages import PostgresMessages, author_of
from services.chat_store.engines.postgres.rows import (
    conversation_of,
    dump,
    message_of,
    plain,
    spoken,
    sums_of,
    terms_in,
)
from services.chat_store.engines.postgres.search import PostgresSearch
from services.chat_store.engines.postgres.upkeep import PostgresUpkeep
from services.chat_store.happenings import Event, Shard, slot_of
from services.chat_store.limits import PAGE_BYTES
from services.chat_store.long_texts import beside_if_long
from services.chat_store.model import Conversation, ConversationClosed, Message, NewConversation, Totals
from services.chat_store.selection import Found, Page, Reach, Search, Selection, Version, Window
from services.chat_store.store import WHOLE_FEED
from shared.clock import Clock, SystemClock
from shared.errors import AlreadyExists, RequestIdReused, ServiceError
from shared.postgres import pool_ready

LAST_SEQ = 2**63 - 1
# What append() says (schema/0002); whatever else: there is no such conversation.
STORED, STORED_BEFORE, REUSED, TAKEN, CLOSED = 1, 2, 4, 5, 6


class PostgresChatStore:
    """ChatStore over one schema of a PostgreSQL database, through a pool of shared.postgres.open_pool."""

    def __init__(self, pool: asyncpg.Pool, *, feed_idle_seconds: float = 10.0, clock: Clock | None = None) -> None:
        self._database = Database(pool, clock or SystemClock())
        self._acts = PostgresActs(self._database)
        self._lists = PostgresLists(self._database)
        self._messages = PostgresMessages(self._database)
        self._search = PostgresSearch(self._database)
        self._feed = PostgresFeed(self._database, idle_seconds=feed_idle_seconds)
        self.entries = PostgresEntries(self._database, self._acts)
        self.audit = PostgresAudit(self._database)
        self.upkeep = PostgresUpkeep(self._database)
        # Where there is nothing to add, nothing is in between.
        self.act, self.revise = self._acts.on_conversation, self._acts.on_message
        self.message, self.revisions, self.text = self._messages.get, self._messages.revisions, self._messages.text

    @property
    def open_feeds(self) -> int:
        """How many feeds are being read."""
        return self._feed.pulse.feeling

    async def ready(self) -> None:
        """Unavailable while the database is away."""
        await pool_ready(self._database.pool)

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Makes or gets a conversation; one that has expired makes room."""
        while (made := await self._create(reach, new)) is None:
            row = await self._lists.row(Reach(reach.tenant_id, None, deleted=True), new.conversation_id)
            if row is not None:
                return self._created_before(reach, new, row)
            await self.upkeep.purge(reach.tenant_id, new.conversation_id, self._expired)
        return made

    async def get(self, reach: Reach, conversation_id: str) -> Conversation:
        """See ChatStore.get."""
        row = await self._lists.row(reach, conversation_id)
        if row is None:
            raise missing(conversation_id)
        return conversation_of(row)

    async def version(self, reach: Reach, conversation_id: str) -> Version:
        """See ChatStore.version."""
        called = self._database.called(reach, conversation_id)
        statement = "select * from version($1, $2, $3, $4, $5)"
        rows = await self._database.call(statement, *called, reach.deleted, self._database.now())
        if not rows:
            raise missing(conversation_id)
        return Version(*rows[0])

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """See ChatStore.select."""
        return await self._lists.select(reach, selection)

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """One call: waits for its turn on the header, recognises what was stored before, stores."""
        called = self._database.called(reach, conversation_id)
        statement = "select * from append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
        arguments = await _append_arguments(reach.tenant_id, batch)
        request = (plain(batch.request_id), batch.fingerprint, self._database.now())
        outcome, first_seq, at, name = (await self._database.call(statement, *called, *request, *arguments))[0]
        if outcome == STORED:
            return batch.placed(first_seq, at)
        if outcome == STORED_BEFORE:
            return await self._messages.appended(reach.tenant_id, conversation_id, first_seq)
        raise _refusal(outcome, conversation_id, spoken(name))

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """One call, also when the conversation is missing."""
        called = self._database.called(reach, conversation_id)
        bounds = (min(window.after_seq, LAST_SEQ), min(window.before_seq or LAST_SEQ, LAST_SEQ))
        asked = (*bounds, window.newest_first, window.limit, PAGE_BYTES)
        statement = "select * from page($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        rows = await self._database.call(statement, *called, reach.deleted, self._database.now(), *asked)
        if not rows:
            raise missing(conversation_id)
        messages = tuple(message_of(row) for row in rows[1:])
        return Page(messages, more=bool(messages) and rows[1]["found"] > len(messages))

    async def search(self, reach: Reach, search: Search) -> Found:
        """See ChatStore.search."""
        return await self._search.find(reach, search)

    def watch(self, tenant_id: str, resume_token: str, shard: Shard = WHOLE_FEED) -> AsyncGenerator[Event, None]:
        """See PostgresFeed."""
        return self._feed.watch(tenant_id, resume_token, shard)

    async def position(self, tenant_id: str) -> str:
        """See PostgresFeed."""
        return await self._feed.position(tenant_id)

    async def _create(self, reach: Reach, new: NewConversation) -> Conversation | None:
        now = self._database.now()
        made = new.made(reach.tenant_id, now)
        rows = await self._database.call(
            "select create_conversation($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) at",
            reach.tenant_id,
            new.conversation_id,
            plain(new.user_id),
            plain(new.assistant_id),
            plain(new.team_id),
            dump(made),
            new.description.ttl_seconds,
            slot_of(reach.tenant_id, new.conversation_id),
            plain(new.request_id),
            new.fingerprint,
            now,
        )
        at = rows[0]["at"]
        return None if at is None else replace(made, create_time=at, last_activity_time=at)

    def _expired(self, conversation: Conversation) -> bool:
        return conversation.expired(self._database.now())

    def _created_before(self, reach: Reach, new: NewConversation, row: Any) -> Conversation:
        known = conversation_of(row)
        if not reach.shows(known, self._database.now()):
            raise missing(new.conversation_id)
        same_request = new.request_id and plain(new.request_id) == row["request_id"]
        if same_request and row["fingerprint"] != new.fingerprint:
            raise RequestIdReused
        return known


def _refusal(outcome: int, conversation_id: str, message_id: str) -> ServiceError:
    if outcome == REUSED:
        return RequestIdReused()
    if outcome == TAKEN:
        return AlreadyExists("message", message_id)
    if outcome == CLOSED:
        return ConversationClosed("the conversation was finalized: it takes no messages")
    return missing(conversation_id)


async def _append_arguments(tenant_id: str, batch: Batch) -> tuple[object, ...]:
    characters = sum(len(draft.words) for draft in batch.drafts) + sum(map(len, batch.bodies.values()))
    return await beside_if_long(characters, _arguments_of, tenant_id, batch)


def _arguments_of(tenant_id: str, batch: Batch) -> tuple[object, ...]:
    drafts = batch.drafts
    return (
        [plain(draft.message_id) for draft in drafts],
        [dump(draft) for draft in drafts],
        [draft.size_bytes for draft in drafts],
        [draft.type.value for draft in drafts],
        [plain(author_of(draft)) for draft in drafts],
        [terms_in(tenant_id, text_searched(draft, batch.bodies)) for draft in drafts],
        [draft.body.sha256 if draft.body else "" for draft in drafts],
        list(batch.bodies),
        list(batch.bodies.values()),
        sums_of(Totals().after(drafts)),
        plain(batch.preview),
    )
