"""Texts that are kept apart are found by words of which pages show nothing: whatever becomes of them."""

from collections.abc import AsyncIterator, Callable

import pytest

from services.chat_store.acts import EditMessage
from services.chat_store.batch import inline_of
from services.chat_store.engines import open_store
from services.chat_store.engines.mongo import search as mongo_search
from services.chat_store.limits import BEGINNING_CHARACTERS, INLINE_BYTES
from services.chat_store.model import Draft, Message, Part, PartKind
from services.chat_store.selection import Found, Reach, Search, SearchOrder
from services.chat_store.store import ChatStore
from services.chat_store.words import MAX_INDEXED_CHARACTERS, words_of
from tests.chat_store.places import fresh_place
from tests.chat_store.replicas import ENGINES, Replicas
from tests.chat_store.workshop import batch_of, said, somebody, started

BEGINNING = "nada " * BEGINNING_CHARACTERS
VERBOSE = (0, 12_000, 24_000)


@pytest.fixture(params=ENGINES)
async def empty(
    request: pytest.FixtureRequest, mongo_url: str, fresh_database: Callable[[], str]
) -> AsyncIterator[ChatStore]:
    async with fresh_place(request.param, mongo_url, fresh_database) as config, open_store(config) as store:
        yield store


@pytest.fixture
async def on_mongo(mongo_url: str, fresh_database: Callable[[], str]) -> AsyncIterator[ChatStore]:
    async with fresh_place("mongo", mongo_url, fresh_database) as config, open_store(config) as store:
        yield store


async def test_a_change_of_what_lies_deep_is_found(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    before = await _kept(store, reach, _long("jabuticaba"))
    assert await _seqs(store, reach, "jabuticaba") == [1]
    after = await _edited(store, reach, before, _long("pitanga"))
    # A page shows the same of both.
    assert after.draft.text == before.draft.text
    assert await _seqs(replicas.other, reach, "jabuticaba") == []
    assert await _seqs(replicas.other, reach, "pitanga") == [1]


async def test_an_edit_of_something_else_loses_no_word(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    message = await _kept(store, reach, _long("jabuticaba"))
    other = EditMessage(parts=(Part(PartKind.DATA, data="{}"), Part(PartKind.TEXT, text="pitanga")))
    await store.revise(reach, "c", message.message_id, other)
    assert await _seqs(replicas.other, reach, "pitanga nada") == [1]
    assert await _seqs(replicas.other, reach, "jabuticaba") == [1]


async def test_no_more_than_the_indexed_characters_is_looked_through(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    beyond = f"{'nada ' * (MAX_INDEXED_CHARACTERS // 5 + 1)}jabuticaba {'fim ' * INLINE_BYTES}"
    await _kept(store, reach, said(beyond))
    assert await _seqs(store, reach, "nada") == [1]
    assert await _seqs(store, reach, "jabuticaba") == []


async def test_a_dump_keeps_the_words_that_lie_deep(replicas: Replicas, empty: ChatStore) -> None:
    store, reach = replicas.store, somebody()
    edited = await _kept(store, reach, _long("jabuticaba"))
    await store.append(reach, "c", batch_of(said("curta"), _long("graviola")))
    await _edited(store, reach, edited, _long("pitanga"))
    await empty.upkeep.load([piece async for piece in store.upkeep.dump()])
    assert await _seqs(empty, reach, "jabuticaba") == []
    assert await _seqs(empty, reach, "pitanga") == [1]
    assert await _seqs(empty, reach, "graviola") == [3]


async def test_a_message_with_too_many_terms_is_looked_through_as_a_whole(on_mongo: ChatStore) -> None:
    reach = somebody()
    await started(on_mongo, reach, "c")
    verbose = [_verbose("jabuticaba", begin) for begin in VERBOSE]
    await on_mongo.append(reach, "c", batch_of(*verbose, _long("pitanga")))
    for order in SearchOrder:
        assert await _seqs(on_mongo, reach, "jabuticaba", order) == [1, 2, 3]
        assert await _seqs(on_mongo, reach, "pitanga", order) == [4]
        assert await _seqs(on_mongo, reach, "graviola", order) == []
        assert await _seqs(on_mongo, reach, "n00005", order) == [1]
        assert await _seqs(on_mongo, reach, "n24005", order) == [3]


async def test_what_is_looked_through_is_bounded_and_says_so(
    on_mongo: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_search, "LOOKED_THROUGH", 1)
    reach = somebody()
    await started(on_mongo, reach, "c")
    for _ in range(2):
        await on_mongo.append(reach, "c", batch_of(*(_verbose("jabuticaba", begin) for begin in VERBOSE)))
    for order in SearchOrder:
        # The newest append is looked through whole.
        found = await _found(on_mongo, reach, "jabuticaba", order)
        assert (sorted(hit.message.seq for hit in found.hits), found.more or found.partial) == ([4, 5, 6], True)
        missed = await _found(on_mongo, reach, "graviola", order)
        assert (missed.hits, missed.partial) == ((), True)


def _long(word: str) -> Draft:
    """A text that is kept apart, with the word where no page shows it."""
    return said(f"{BEGINNING}{word} {'fim ' * INLINE_BYTES}")


def _verbose(word: str, begin: int) -> Draft:
    """As many terms as three of them have are too many for one append; the word is behind them."""
    return said(f"{' '.join(f'n{number:05}' for number in range(begin, begin + 8_000))} {word} {'fim ' * INLINE_BYTES}")


async def _kept(store: ChatStore, reach: Reach, draft: Draft) -> Message:
    await started(store, reach, "c")
    (message,) = await store.append(reach, "c", batch_of(draft))
    assert message.draft.body is not None
    return message


async def _edited(store: ChatStore, reach: Reach, message: Message, wanted: Draft) -> Message:
    draft, bodies = inline_of(wanted)
    edit = EditMessage(text=draft.text, body=draft.body, bodies=bodies)
    return await store.revise(reach, "c", message.message_id, edit)


async def _found(store: ChatStore, reach: Reach, query: str, order: SearchOrder) -> Found:
    return await store.search(reach, Search(words_of(query), order=order))


async def _seqs(store: ChatStore, reach: Reach, query: str, order: SearchOrder = SearchOrder.RELEVANCE) -> list[int]:
    return sorted(hit.message.seq for hit in (await _found(store, reach, query, order)).hits)
