"""The law of appending; part of store_contract.py."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from services.chat_store.limits import MAX_BATCH_BYTES
from services.chat_store.model import (
    Body,
    Draft,
    MessageStatus,
    MessageType,
    Part,
    PartKind,
    Reference,
    Tokens,
    UsageSource,
)
from services.chat_store.selection import Selection, Window
from services.chat_store.store import ChatStore
from shared.clock import ManualClock
from shared.errors import AlreadyExists, InvalidArgument, NotFound, RequestIdReused
from tests.chat_store.workshop import (
    HOSTILE_IDS,
    HOSTILE_JSON,
    HOSTILE_TEXTS,
    Workshop,
    batch_of,
    everything,
    pair,
    said,
    somebody,
    started,
)


class MessageContract:
    async def test_a_batch_is_contiguous_among_concurrent_writers(self, workshop: Workshop) -> None:
        stores = [workshop.store, await workshop.another_replica()]
        reach = somebody()
        conversation = await started(stores[0], reach)
        batches = [batch_of(*(said(f"{n}") for _ in range(n % 4 + 1))) for n in range(20)]
        await asyncio.gather(*(stores[n % 2].append(reach, conversation, each) for n, each in enumerate(batches)))
        messages = await everything(stores[0], reach, conversation)
        runs = Counter[str]()
        for before, message in zip([None, *messages], messages, strict=False):
            runs[message.draft.text] += before is None or before.draft.text != message.draft.text
        assert len(messages) == sum(len(each.drafts) for each in batches)
        assert set(runs.values()) == {1}

    async def test_seq_is_dense_and_strictly_increasing(self, workshop: Workshop) -> None:
        stores = [workshop.store, await workshop.another_replica()]
        reach = somebody()
        conversation = await started(stores[0], reach)
        writes = [stores[n % 2].append(reach, conversation, pair(f"{n}")) for n in range(20)]
        stored = [message for each in await asyncio.gather(*writes) for message in each]
        assert sorted(message.seq for message in stored) == list(range(1, 41))
        messages = await everything(stores[0], reach, conversation)
        assert [message.seq for message in messages] == list(range(1, 41))
        assert {message.message_id for message in messages} == {message.message_id for message in stored}
        times = [message.create_time for message in messages]
        assert times == sorted(times)
        assert (await stores[1].get(reach, conversation)).totals.messages == 40
        # A clock that was set back moves nothing back.
        late = workshop.store_at(ManualClock(messages[0].create_time.replace(year=2001)))
        assert (await late.append(reach, conversation, pair("late")))[0].create_time >= times[-1]

    async def test_a_crash_between_messages_and_header_heals(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        for heal in ("get", "retry", "append"):
            conversation = await started(store, reach)
            await store.append(reach, conversation, pair("before"))
            lost = pair("lost?", request_id="r1")
            await workshop.crash_after_storing(reach, conversation, lost)
            assert (await store.version(reach, conversation)).last_seq == 4
            if heal == "retry":
                assert [each.seq for each in await store.append(reach, conversation, lost)] == [3, 4]
            if heal == "append":
                assert [each.seq for each in await store.append(reach, conversation, pair("next"))] == [5, 6]
            count = 6 if heal == "append" else 4
            if heal == "get":
                assert (await store.get(reach, conversation)).totals.messages == count
            listed = (await store.select(reach, Selection(limit=1)))[0][0]
            assert (listed.conversation_id, listed.totals.messages) == (conversation, count)
            assert listed.totals.tokens == Tokens(input=7 * count // 2, output=5 * count // 2)
            assert [each.seq for each in await everything(store, reach, conversation)] == list(range(1, count + 1))

    async def test_a_retry_returns_what_was_stored(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        first = await store.append(reach, conversation, pair("a", request_id="r1"))
        await store.append(reach, conversation, pair("b", request_id="r2"))
        assert await store.append(reach, conversation, pair("a", request_id="r1")) == first
        elsewhere = await started(store, reach)
        again = await store.append(reach, elsewhere, pair("a", request_id="r1"))
        assert [each.seq for each in again] == [1, 2]
        assert (await store.get(reach, conversation)).totals.messages == 4

    async def test_concurrent_retries_store_once(self, workshop: Workshop) -> None:
        stores = [workshop.store, await workshop.another_replica()]
        reach = somebody()
        conversation = await started(stores[0], reach)
        tries = [stores[n % 2].append(reach, conversation, pair("a", request_id="r1")) for n in range(10)]
        others = [stores[n % 2].append(reach, conversation, pair(f"{n}")) for n in range(5)]
        results = (await asyncio.gather(*tries, *others))[:10]
        assert all(result == results[0] for result in results)
        assert len(await everything(stores[0], reach, conversation)) == 12

    async def test_a_reused_request_id_is_refused(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        await store.append(reach, conversation, pair("a", request_id="r1"))
        for other in (pair("b", request_id="r1"), batch_of(said("a"), request_id="r1")):
            with pytest.raises(RequestIdReused):
                await store.append(reach, conversation, other)
        assert (await store.get(reach, conversation)).totals.messages == 2

    async def test_a_message_id_is_unique_in_its_conversation(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        first = await store.append(reach, conversation, batch_of(said("a", message_id="m1"), said("b")))
        again = await store.append(reach, conversation, batch_of(said("a", message_id="m1"), said("b")))
        assert again == first
        with pytest.raises(AlreadyExists, match="message"):
            await store.append(reach, conversation, batch_of(said("c", message_id="m1"), request_id="r2"))
        with pytest.raises(AlreadyExists):
            await store.append(reach, conversation, batch_of(said("c", message_id=first[1].message_id)))
        with pytest.raises(AlreadyExists):
            await store.append(reach, conversation, batch_of(said("new"), said("a", message_id="m1")))
        with pytest.raises(InvalidArgument):
            batch_of(said("c", message_id="m2"), said("d", message_id="m2"))
        assert [each.draft.text for each in await everything(store, reach, conversation)] == ["a", "b"]
        await store.append(reach, conversation, batch_of(said("c", message_id="M1")))
        await store.append(reach, await started(store, reach), batch_of(said("a", message_id="m1")))

    async def test_messages_come_back_as_they_were_said(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach, metadata='{"a":1}', title="Título", channel="web", team_id="t")
        drafts = [
            Draft(
                type=kind,
                text="Olá, “ção” 🏛️",
                message_id=f"m-{kind.value}",
                user_id="ana",
                assistant_id="a1",
                team_id="t1",
                status=MessageStatus.INTERRUPTED,
                rag=True,
                references=(Reference(1, "d1", 2, "Código", "c1", 3, 10, 20, "cita", 0.75),),
                tokens=Tokens(1, 2, 3, 4),
                usage_source=UsageSource.PARTIAL,
                cost_micros=5,
                model="extractive",
                latency_ms=6,
                time_to_first_token_ms=7,
                finish_reason="stop",
                error_reason="X",
                metadata='{"k":[1,null]}',
                parts=(
                    Part(PartKind.TEXT, text="mais"),
                    Part(PartKind.DATA, data='{"$a":{"b":1.5}}'),
                    Part(PartKind.FILE, uri="s3://x", name="a.pdf", mime_type="a/b", size_bytes=2**40, sha256="f" * 64),
                ),
                reply_to="m-user",
            )
            for kind in MessageType
        ]
        stored = await store.append(reach, conversation, batch_of(*drafts))
        assert [message.draft for message in stored] == drafts
        assert await everything(store, reach, conversation) == stored
        assert [await store.message(reach, conversation, each.message_id) for each in stored] == stored
        kept = await store.get(reach, conversation)
        assert (kept.description.title, kept.channel, kept.team_id) == ("Título", "web", "t")
        assert kept.description.metadata == '{"a":1}'

    async def test_hostile_text_and_metadata_are_only_data(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(
            store, reach, metadata=HOSTILE_JSON, context=HOSTILE_JSON, title="\0$set", channel="$channel"
        )
        drafts = [
            replace(said(text), user_id=text, metadata=HOSTILE_JSON, model="$model", parts=(Part(PartKind.TEXT, text),))
            for text in HOSTILE_TEXTS
        ]
        batch = batch_of(*drafts, request_id="$exists\0")
        stored = await store.append(reach, conversation, batch)
        assert await store.append(reach, conversation, batch) == stored
        assert await everything(store, reach, conversation) == stored
        assert stored[0].draft == replace(drafts[0], message_id=stored[0].message_id)
        described = (await store.get(reach, conversation)).description
        assert (described.metadata, described.context, described.title) == (HOSTILE_JSON, HOSTILE_JSON, "\0$set")
        like = ("{}\0", "{}:", "{}:000000000001", " {}", "{} ", "{}\n", "\u200b{}")
        broken = ("", "x" * 5000, conversation.upper(), *(each.format(conversation) for each in like))
        for name in (*HOSTILE_IDS, *broken):
            with pytest.raises(NotFound):
                await store.get(reach, name)
            with pytest.raises(NotFound):
                await store.append(reach, name, pair("x"))
            with pytest.raises(NotFound):
                await store.read(reach, name, Window())
            with pytest.raises(NotFound):
                await store.message(reach, conversation, name)

    async def test_no_conversation_hits_16_mb(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        # Kept inline, and so large that an engine which keeps a conversation in one place runs out of it.
        most = "x" * (200 * 1024)
        for _ in range(6):
            await store.append(reach, conversation, batch_of(*(said(most) for _ in range(17))))
        assert (await store.get(reach, conversation)).totals.messages == 102
        page = await store.read(reach, conversation, Window(newest_first=True, limit=1))
        assert page.messages[0].draft.text == most
        # A batch of texts that are kept apart.
        apart = await store.append(reach, conversation, batch_of(*(said(f"{n}" * 1_500_000) for n in range(10))))
        assert [message.draft.body for message in apart] != [None] * 10
        assert isinstance(apart[0].draft.body, Body)
        with pytest.raises(InvalidArgument):
            batch_of(*(said("x" * (MAX_BATCH_BYTES // 17)) for _ in range(18)))
