"""The law of search; part of store_contract.py."""

from dataclasses import replace
from typing import Any

from services.chat_store.acts import Archive, Delete, EditMessage, Finalize, Undelete
from services.chat_store.batch import inline_of
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.model import ConversationStatus, MessageType, Part, PartKind
from services.chat_store.selection import Hit, Period, Reach, Search, SearchOrder
from services.chat_store.store import SEARCH_CANDIDATES, ChatStore
from services.chat_store.words import words_of
from shared.clock import ManualClock
from tests.chat_store.workshop import HOSTILE_TEXTS, Workshop, batch_of, said, somebody, started, talk

EVERY_STATUS = frozenset(ConversationStatus)
BOTH_ORDERS = tuple(SearchOrder)


class SearchContract:
    async def test_what_was_just_said_is_found(self, workshop: Workshop) -> None:
        store, replica, reach = workshop.store, await workshop.another_replica(), somebody()
        conversation = await started(store, reach)
        for text, query in [
            ("O orçamento da prefeitura foi aprovado", "ORCAMENTO"),
            ("Precisamos das informações da licitação", "informacao"),
            ("os cachorros corriam pela praça", "cachorro"),
            ("She was running the reports", "report run"),
            ("Protocolo 2024/000123-45 deferido", "2024/000123-45"),
            ("meu CPF é 123.456.789-09", "12345678909"),
            *((f"{hostile} agulha{number}", f"agulha{number}") for number, hostile in enumerate(HOSTILE_TEXTS)),
        ]:
            stored = (await store.append(reach, conversation, batch_of(said(text))))[0]
            for order in BOTH_ORDERS:
                found = await _found(replica, reach, query, order=order)
                assert [hit.message for hit in found] == [stored], query
                assert (found[0].score > 0) == (order is SearchOrder.RELEVANCE)
                assert found[0].conversation_id == conversation
        parts = (Part(PartKind.TEXT, text="na parte: jabuticaba"), Part(PartKind.DATA, data='{"a":"segredo"}'))
        stored = (await store.append(reach, conversation, batch_of(replace(said("corpo"), parts=parts))))[0]
        assert [hit.message for hit in await _found(replica, reach, "jabuticaba corpo")] == [stored]
        assert await _found(replica, reach, "segredo") == []
        # Of a text that is kept apart more is looked through than a page shows.
        long = f"{'palavra ' * 6000}pitangueira {'fim ' * INLINE_BYTES}"
        stored = (await store.append(reach, conversation, batch_of(said(long))))[0]
        assert stored.draft.body is not None
        assert [hit.message for hit in await _found(replica, reach, "pitangueira")] == [stored]

    async def test_an_edited_message_is_found_by_its_new_words_only(self, store: ChatStore) -> None:
        reach = somebody()
        conversation, (first, second) = await talk(store, reach, "banana madura", "banana verde")
        edited = await store.revise(reach, conversation, first.message_id, EditMessage(text="laranja madura"))
        assert [hit.message for hit in await _found(store, reach, "banana")] == [second]
        assert [hit.message for hit in await _found(store, reach, "laranja")] == [edited]
        assert [hit.message for hit in await _found(store, reach, "madura")] == [edited]
        part = EditMessage(parts=(Part(PartKind.TEXT, text="abacaxi"),))
        edited = await store.revise(reach, conversation, first.message_id, part)
        assert [hit.message for hit in await _found(store, reach, "abacaxi laranja")] == [edited]
        draft, bodies = inline_of(said(f"{'longo ' * 8000}jenipapo {'x ' * INLINE_BYTES}"))
        large = EditMessage(text=draft.text, body=draft.body, bodies=bodies, parts=())
        edited = await store.revise(reach, conversation, first.message_id, large)
        assert [hit.message for hit in await _found(store, reach, "jenipapo")] == [edited]
        assert await _found(store, reach, "abacaxi") == await _found(store, reach, "laranja") == []

    async def test_search_is_filtered(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        for name, (assistant, team) in {"one": ("a1", "t1"), "two": ("a1", "t2"), "three": ("a2", "t1")}.items():
            await started(store, reach, name, assistant_id=assistant, team_id=team)
        moments = []
        for name in ("one", "two", "three"):
            clock.advance(60)
            asked, answered = said("qual imposto pagar"), said("o imposto é ISS", MessageType.ASSISTANT)
            moments.append((await store.append(reach, name, batch_of(asked, answered)))[0].create_time)

        async def found(query: str = "imposto", **wanted: Any) -> list[tuple[str, int]]:
            hits = [await _found(store, reach, query, order=order, **wanted) for order in BOTH_ORDERS]
            places = [[(hit.conversation_id, hit.message.seq) for hit in each] for each in hits]
            assert sorted(places[0]) == sorted(places[1])
            return places[1]

        everywhere = [("three", 2), ("three", 1), ("two", 2), ("two", 1), ("one", 2), ("one", 1)]
        assert await found() == everywhere
        assert await found("imposto pagar") == [("three", 1), ("two", 1), ("one", 1)]
        assert await found("imposto ISS pagar") == []
        assert await found("imposto inexistente") == []
        assert await found(conversation_id="two") == [("two", 2), ("two", 1)]
        assert await found(conversation_id="$ne") == await found(conversation_id="tw") == []
        assert await found(assistant_id="a1", team_id="t2") == [("two", 2), ("two", 1)]
        assert await found(assistant_id="a2", team_id="t2") == []
        assert await found(types=frozenset({MessageType.ASSISTANT})) == [("three", 2), ("two", 2), ("one", 2)]
        assert await found(types=frozenset({MessageType.ERROR})) == []
        assert await found(created=Period(moments[1], moments[2])) == [("two", 2), ("two", 1)]
        assert await found(created=Period(moments[1], None), conversation_id="one") == []
        assert await found(created=Period(None, moments[1])) == [("one", 2), ("one", 1)]
        await store.act(reach, "one", Archive())
        await store.act(reach, "two", Finalize(reason="done"))
        assert await found() == everywhere[:4]
        assert await found(statuses=frozenset({ConversationStatus.ARCHIVED})) == everywhere[4:]
        assert await found(statuses=frozenset({ConversationStatus.FINALIZED})) == everywhere[2:4]
        assert await found(statuses=EVERY_STATUS) == everywhere
        nothing = Search(words=())
        for order in BOTH_ORDERS:
            assert (await store.search(reach, replace(nothing, order=order))).hits == ()

    async def test_search_finds_nothing_out_of_reach(self, store: ChatStore) -> None:
        reach, elsewhere = somebody(), somebody()
        conversation, _ = await talk(store, reach, "um segredo")
        await talk(store, replace(reach, user_id=""), "segredo anônimo")
        for order in BOTH_ORDERS:
            for other in (
                elsewhere,
                replace(elsewhere, user_id=None),
                replace(elsewhere, user_id=None, deleted=True),
                replace(reach, user_id="bia"),
                replace(reach, user_id="an"),
                replace(reach, tenant_id=reach.tenant_id[:-1], user_id=None),
            ):
                assert await _found(store, other, "segredo", order=order) == []
                assert await _found(store, other, "segredo", order=order, conversation_id=conversation) == []
            assert len(await _found(store, reach, "segredo", order=order)) == 1
            assert len(await _found(store, replace(reach, user_id=""), "segredo", order=order)) == 1
            assert len(await _found(store, replace(reach, user_id=None), "segredo", order=order)) == 2

    async def test_what_is_gone_is_not_found(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        deleted, _ = await talk(store, reach, "segredo apagado")
        purged, _ = await talk(store, reach, "segredo purgado")
        trimmed, _ = await talk(store, reach, "segredo antigo", "segredo novo")
        expired = await started(store, reach, ttl_seconds=60)
        await store.append(reach, expired, batch_of(said("segredo vencido")))
        assert len(await _found(store, reach, "segredo")) == 5
        await store.act(reach, deleted, Delete(purge_after_days=30))
        await store.upkeep.purge(reach.tenant_id, purged)
        await store.upkeep.trim(reach.tenant_id, trimmed, 2)
        clock.advance(61)
        for order in BOTH_ORDERS:
            for whoever in (reach, replace(reach, user_id=None)):
                found = await _found(store, whoever, "segredo", order=order, statuses=EVERY_STATUS)
                assert [hit.message.draft.text for hit in found] == ["segredo novo"]
                for gone in (deleted, purged, expired):
                    assert await _found(store, whoever, "segredo", conversation_id=gone, statuses=EVERY_STATUS) == []
        await store.act(reach, deleted, Undelete())
        assert len(await _found(store, reach, "segredo")) == 2

    async def test_search_pages_without_gaps(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        for name in ("b", "B", "a", "a.b", "~"):
            await started(store, reach, name)
        # Several at each moment, in several conversations and in one append; of different fitness.
        for number in range(6):
            clock.advance(0 if number % 2 else 1)
            for name in ("b", "B", "a", "a.b", "~"):
                texts = (f"taxa {'de lixo ' * ((number * 7 + each) % 4)}" for each in range(3))
                await store.append(reach, name, batch_of(*(said(text) for text in texts)))
        wanted = 6 * 5 * 3
        for order in BOTH_ORDERS:
            whole = await _found(store, reach, "taxa", order=order, limit=wanted)
            assert len(whole) == wanted
            assert whole == sorted(whole, key=_order, reverse=True)
            assert len({(hit.conversation_id, hit.message.seq) for hit in whole}) == wanted
            for limit in (7, 45):
                assert await _found(store, reach, "taxa", order=order, limit=limit) == whole
            one = await _found(store, reach, "taxa", order=order, limit=2, conversation_id="a")
            assert [hit.message for hit in one] == [hit.message for hit in whole if hit.conversation_id == "a"]
        # What is said while somebody turns the pages moves nothing.
        for order in BOTH_ORDERS:
            search = Search(words_of("taxa"), order=order, limit=30)
            first = await store.search(reach, search)
            clock.advance(1)
            await store.append(reach, "b", batch_of(said("taxa")))
            second = await store.search(reach, replace(search, after=first.hits[-1].place, limit=1000))
            before = {(hit.conversation_id, hit.message.seq) for hit in first.hits}
            places = [(hit.conversation_id, hit.message.seq) for hit in second.hits]
            assert before.isdisjoint(places)
            assert len(set(places)) == len(places) >= wanted - 30

    async def test_a_common_word_is_bounded_and_says_so(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        conversation = await started(store, reach)
        count = 2 * SEARCH_CANDIDATES + 200
        # The one that would fit best is too old to be looked at.
        await store.append(reach, conversation, batch_of(said("taxa taxa taxa raríssima")))
        for begin in range(1, count, 100):
            texts = (f"uma taxa entre outras palavras, a de número {begin + n}" for n in range(100))
            await store.append(reach, conversation, batch_of(*map(said, texts)))
        other, _ = await talk(store, reach, "a taxa de outra conversa")
        await workshop.start_measuring()
        found = await store.search(reach, Search(words_of("taxa"), limit=50))
        work = await workshop.work()
        assert (found.partial, found.more, len(found.hits)) == (True, True, 50)
        ranked = [hit.message.seq for hit in found.hits if hit.conversation_id == conversation]
        assert min(ranked) > count - SEARCH_CANDIDATES
        # Beside the messages themselves, what the index says of each.
        assert work.appends <= 2 * (SEARCH_CANDIDATES + 50)
        newest = await store.search(reach, Search(words_of("taxa"), limit=3, order=SearchOrder.RECENCY))
        assert newest.more
        assert (newest.hits[0].conversation_id, newest.hits[1].message.seq) == (other, count + 1)
        # A rarer word leads to it, however old it is; a narrower question is answered whole.
        rare = await store.search(reach, Search(words_of("taxa raríssima")))
        assert ([hit.message.seq for hit in rare.hits], rare.partial) == ([1], False)
        narrow = await store.search(reach, Search(words_of("taxa"), conversation_id=other))
        assert (len(narrow.hits), narrow.partial) == (1, False)


async def _found(
    store: ChatStore, reach: Reach, query: str, *, order: SearchOrder = SearchOrder.RELEVANCE, **wanted: Any
) -> list[Hit]:
    """All hits, page by page."""
    search, found = Search(words_of(query), order=order, **wanted), list[Hit]()
    while True:
        page = await store.search(reach, search)
        found += page.hits
        assert len(page.hits) <= search.limit
        assert len({hit.place for hit in found}) == len(found)
        if not page.more:
            return found
        search = replace(search, after=found[-1].place)


def _order(hit: Hit) -> tuple[object, ...]:
    place = hit.place
    return place.score, place.time, place.conversation_id, place.seq
