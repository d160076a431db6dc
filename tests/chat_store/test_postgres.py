"""What PostgreSQL itself guarantees beneath the engine: tenants apart, an audit that stays, a feed without a gap."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import asyncpg
import pytest
from pydantic import SecretStr

from services.chat_store.acts import EditMessage
from services.chat_store.batch import inline_of
from services.chat_store.engines import SCHEMA, SCHEMA_DIRECTORY
from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.feed import ENGINE
from services.chat_store.engines.postgres.rows import plain, spoken, words_in, words_said
from services.chat_store.engines.postgres.search import LARGE_AT_ONCE, SMALL_BYTES
from services.chat_store.engines.postgres.store import PostgresChatStore
from services.chat_store.feed_token import feed_token
from services.chat_store.happenings import Appended, Event
from services.chat_store.model import Message, NewConversation, Part, PartKind, Totals
from services.chat_store.selection import Reach, Search, SearchOrder
from services.chat_store.snapshot import KeptAppend, KeptBody, KeptConversation
from services.chat_store.words import MAX_SCORED_CHARACTERS, terms_of, words_of
from shared.errors import InvalidArgument
from shared.identifiers import new_id
from shared.postgres import migrate, open_pool, tenant_transaction
from tests.chat_store.workshop import HOSTILE_TEXTS, batch_of, pair, said, somebody, started, talk

TABLES = {
    "conversations",
    "messages",
    "guests",
    "bodies",
    "entries",
    "happenings",
    "policies",
    "audit_links",
    "message_terms",
}
_MATCHES = """
    select seqs from matches(null, '', '', '', '{active}', true, '{user,assistant}', $1, null, null, null, null, null,
                             10, 1000, now())
"""


@pytest.fixture(scope="module")
async def url(fresh_database: Callable[[], str]) -> str:
    url = fresh_database()
    await migrate(SecretStr(url), schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    return url


@pytest.fixture(scope="module")
async def pool(url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(SecretStr(url), schema=SCHEMA) as pool:
        yield pool


@pytest.fixture
async def superuser(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
def store(pool: asyncpg.Pool) -> PostgresChatStore:
    return PostgresChatStore(pool, feed_idle_seconds=0.2)


async def test_every_table_of_tenants_is_bound_by_row_level_security(superuser: asyncpg.Connection) -> None:
    rows = await superuser.fetch(
        """
        SELECT c.relname, c.relrowsecurity AS bound, c.relforcerowsecurity AS forced,
               (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relnamespace = 'chat_store'::regnamespace AND c.relkind = 'r'
        """
    )
    assert {row["relname"] for row in rows} == TABLES
    assert all(row["bound"] and row["policies"] == 2 for row in rows)
    # The owner's function searches in it; everybody else is bound.
    assert {row["relname"] for row in rows if not row["forced"]} == {"message_terms"}


async def test_the_services_role_sees_one_tenant_and_writes_for_no_other(
    store: PostgresChatStore, pool: asyncpg.Pool
) -> None:
    own, other = somebody(), somebody()
    for reach in (own, other):
        await store.append(reach, await started(store, reach), pair("segredo"))
    for table in ("conversations", "messages", "message_terms", "happenings"):
        async with tenant_transaction(pool, own.tenant_id) as connection:
            seen = await connection.fetch(f"select distinct tenant_id from {table}")
        assert {row["tenant_id"] for row in seen} == {own.tenant_id}
    async with tenant_transaction(pool, "") as connection:
        assert await connection.fetchval("select count(*) from message_terms") == 0
    for tenant in (other.tenant_id, "*"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(pool, tenant) as connection:
                await connection.execute("insert into policies values ($1, '{}')", own.tenant_id)


async def test_the_search_function_finds_only_what_the_sessions_tenant_said(
    store: PostgresChatStore, pool: asyncpg.Pool
) -> None:
    own, other = somebody(), somebody()
    await store.append(own, await started(store, own), pair("jabuticaba"))
    theirs = words_in(own.tenant_id, words_of("jabuticaba"))
    for tenant, found in ((own.tenant_id, [2, 1]), (other.tenant_id, []), ("", None), ("*", None)):
        async with tenant_transaction(pool, tenant) as connection:
            row = await connection.fetchrow(_MATCHES, theirs)
        assert (row["seqs"] if row else None) == found


async def test_rare_words_are_found_beyond_the_newest_messages_and_common_ones_are_not_followed(
    store: PostgresChatStore, superuser: asyncpg.Connection
) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    await store.append(reach, conversation, batch_of(said("uma agulha no palheiro")))
    for number in range(25):
        await store.append(reach, conversation, batch_of(*(said(f"palha {number}") for _ in range(100))))
    await superuser.execute("analyze chat_store.message_terms")
    for order in SearchOrder:
        rare = await store.search(reach, Search(words_of("agulha"), order=order))
        assert [hit.message.seq for hit in rare.hits] == [1]
        assert not rare.partial
        for within in (Search(words_of("palha")), Search(words_of("palha"), conversation_id=conversation)):
            common = await store.search(reach, replace(within, order=order, limit=5))
            assert [hit.message.seq for hit in common.hits] == [2501, 2500, 2499, 2498, 2497]
            assert common.more
            assert common.partial == (order is SearchOrder.RELEVANCE)


async def test_the_audit_refuses_to_be_changed_even_by_the_owner(superuser: asyncpg.Connection) -> None:
    await superuser.execute("insert into chat_store.audit_links values ('t-audit', 1, 1, '[]', '0', '1')")
    for change in (
        "update chat_store.audit_links set hash = 'x'",
        "delete from chat_store.audit_links",
        "truncate chat_store.audit_links",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="never changed"):
            await superuser.execute(change)


async def test_the_feed_waits_for_a_transaction_that_began_earlier_and_commits_later(
    store: PostgresChatStore, superuser: asyncpg.Connection
) -> None:
    reach = somebody()
    first, second = await started(store, reach), await started(store, reach)
    token = await store.position(reach.tenant_id)
    await superuser.execute("set search_path = chat_store")
    async with aclosing(store.watch(reach.tenant_id, token)) as feed:
        async with superuser.transaction():
            await PostgresChatStore(cast("asyncpg.Pool", superuser)).append(reach, first, pair("slow"))
            await store.append(reach, second, pair("quick"))
            assert (await anext(feed)).what is None
        told = [await _next_telling(feed) for _ in range(2)]
    assert [event.conversation_id for event in told] == [first, second]


async def test_what_had_committed_before_now_is_not_told_again_because_of_an_older_transaction(
    store: PostgresChatStore, superuser: asyncpg.Connection
) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    older = superuser.transaction()
    await older.start()
    await superuser.execute("select pg_current_xact_id()")
    await store.append(reach, conversation, pair("before"))
    token = await store.position(reach.tenant_id)
    await store.append(reach, conversation, pair("after"))
    await older.commit()
    async with aclosing(store.watch(reach.tenant_id, token)) as feed:
        event = await _next_telling(feed)
    assert isinstance(event.what, Appended)
    assert [message.seq for message in event.what.messages] == [3, 4]


async def test_a_token_from_beyond_the_present_is_refused(store: PostgresChatStore) -> None:
    whole: dict[str, str | int] = {"of": "0/1", "position": 0}
    tokens: list[dict[str, str | int]] = [
        {**whole, "xid": 2**62},
        {**whole, "xid": -1},
        {**whole, "xid": "1"},
        {**whole, "xid": 1, "beyond": "9:1:"},
        {**whole, "xid": 1, "beyond": "1:5:4,2"},
        {**whole, "xid": 1, "beyond": "1:5:5"},
        {"of": "1/2", "position": 0, "xid": 1},
        {"xid": 1},
    ]
    for facts in tokens:
        with pytest.raises(InvalidArgument) as refused:
            await anext(store.watch("", feed_token(ENGINE, "", facts)))
        assert refused.value.reason == "RESUME_TOKEN_INVALID"


@pytest.mark.parametrize("text", ["", "\0", "\\0", "\\\0\\", "\\\\0\0", "ç\\"])
def test_a_text_for_a_column_can_be_read_back(text: str) -> None:
    assert "\0" not in plain(text)
    assert spoken(plain(text)) == text


async def test_an_id_that_is_used_again_at_the_same_moment_has_another_time(store: PostgresChatStore) -> None:
    reach, name = somebody(), new_id()
    times = []
    for _ in range(3):
        times.append((await store.create(reach, NewConversation(name, "ana"))).create_time)
        await store.upkeep.purge(reach.tenant_id, name)
    assert sorted(set(times)) == times


async def _append(store: PostgresChatStore, reach: Reach, text: str) -> None:
    await store.append(reach, await started(store, reach), batch_of(said(text)))


async def _edit(store: PostgresChatStore, reach: Reach, text: str) -> None:
    conversation, (message,) = await talk(store, reach, "dito")
    draft, bodies = inline_of(said(text))
    edit = EditMessage(text=draft.text, body=draft.body, bodies=bodies)
    await store.revise(reach, conversation, message.message_id, edit)


async def _load(store: PostgresChatStore, reach: Reach, text: str) -> None:
    batch, new, at = batch_of(said(text)), NewConversation("c1", "ana"), datetime(2026, 1, 2, tzinfo=UTC)
    conversation = replace(new.made(reach.tenant_id, at), totals=Totals().after(batch.drafts))
    place = (reach.tenant_id, new.conversation_id)
    bodies = (KeptBody(*place, *body) for body in batch.bodies.items())
    append = KeptAppend(*place, at, "", batch.fingerprint, tuple(batch.placed(1, at)), ())
    await store.upkeep.load([KeptConversation(conversation, "", new.fingerprint), *bodies, append])


@pytest.mark.parametrize("text", ["curto", "palavra " * 10_000, "enorme " * 100_000], ids=["short", "long", "apart"])
@pytest.mark.parametrize("take_in", [_append, _edit, _load])
async def test_long_texts_are_cut_into_terms_beside_the_event_loop(
    store: PostgresChatStore,
    monkeypatch: pytest.MonkeyPatch,
    take_in: Callable[[PostgresChatStore, Reach, str], Awaitable[None]],
    text: str,
) -> None:
    cut_in = list[int]()

    def watched(words: str) -> list[str]:
        cut_in.append(threading.get_ident())
        return terms_of(words)

    monkeypatch.setattr(rows, "terms_of", watched)
    reach = somebody()
    await take_in(store, reach, text)
    assert (cut_in[-1] == threading.get_ident()) == (text == "curto")
    (hit,) = (await store.search(reach, Search(words_of(text.split(maxsplit=1)[0])))).hits
    assert text.startswith(hit.message.draft.text)


@pytest.mark.parametrize("text", ["", *HOSTILE_TEXTS], ids=ascii)
def test_what_search_looks_through_is_read_without_the_message(text: str) -> None:
    parts = (Part(PartKind.TEXT, text=text), Part(PartKind.DATA, data='{"text":"x"}'), Part(PartKind.FILE, name=text))
    draft = replace(said(text), parts=parts, metadata='{"draft":{"text":"y"}}')
    message = Message(1, datetime(2026, 1, 2, tzinfo=UTC), draft, revision=1)
    assert words_said({"said": rows.dump(draft), "changed": None}) == draft.words
    assert words_said({"said": rows.dump(said("x")), "changed": rows.dump(message)}) == draft.words
    assert words_said({"said": rows.dump(said(text)), "changed": None}) == said(text).words


async def test_candidates_are_ranked_alike_however_large_they_are(store: PostgresChatStore) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    beginning = "taxa " + "de lixo " * (MAX_SCORED_CHARACTERS // 8)
    large = beginning + "x" * SMALL_BYTES
    for _ in range(2):
        await store.append(reach, conversation, batch_of(*(said(text) for text in [beginning, large] * LARGE_AT_ONCE)))
    found = await store.search(reach, Search(words_of("taxa"), limit=4 * LARGE_AT_ONCE))
    assert [hit.message.seq for hit in found.hits] == list(range(4 * LARGE_AT_ONCE, 0, -1))
    assert len({hit.score for hit in found.hits}) == 1


async def test_candidates_are_ranked_beside_the_event_loop(
    store: PostgresChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in = list[int]()

    def watched(row: rows.Row) -> str:
        read_in.append(threading.get_ident())
        return words_said(row)

    monkeypatch.setattr(rows, "words_said", watched)
    reach = somebody()
    await store.append(reach, await started(store, reach), batch_of(said("taxa"), said("taxa " * SMALL_BYTES)))
    await store.search(reach, Search(words_of("taxa")))
    assert len(read_in) == 2
    assert threading.get_ident() not in read_in


async def _next_telling(feed: AsyncGenerator[Event, None]) -> Event:
    async with asyncio.timeout(60):
        while (event := await anext(feed)).what is None:
            pass
    return event
