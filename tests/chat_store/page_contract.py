"""The law of reading messages back, as they are now and as they were; part of store_contract.py."""

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest

from services.chat_store.acts import (
    AddEntry,
    ClearFeedback,
    Describe,
    EditMessage,
    Finalize,
    LinkMessageAnalysis,
    SetFeedback,
)
from services.chat_store.batch import inline_of
from services.chat_store.entries import EntryKind
from services.chat_store.limits import (
    BEGINNING_CHARACTERS,
    BODY_CHUNK_BYTES,
    INLINE_BYTES,
    MAX_TEXT_BYTES,
    PAGE_BYTES,
    PREVIEW_CHARACTERS,
)
from services.chat_store.model import (
    ConversationClosed,
    Feedback,
    Message,
    Part,
    PartKind,
    Reference,
    RevisionMismatch,
    Sentiment,
)
from services.chat_store.selection import Page, Reach, Search, Selection, Version, Window
from services.chat_store.snapshot import KeptBody
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.clock import ManualClock
from shared.errors import AlreadyExists, InvalidArgument, NotFound, RequestIdReused
from tests.chat_store.pictures import dumped
from tests.chat_store.workshop import (
    HOSTILE_TEXTS,
    Work,
    Workshop,
    batch_of,
    everything,
    pair,
    said,
    seqs,
    somebody,
    started,
    talk,
    whole,
)


class PageContract:
    async def test_pages_from_any_position_in_both_directions(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        assert await store.read(reach, conversation, Window(after_seq=3)) == Page((), more=False)
        sizes = [1, 3, 2, 5, 1, 1, 4, 3]
        for size in sizes:
            await store.append(reach, conversation, batch_of(*(said("x") for _ in range(size))))
        count = sum(sizes)
        beyond = [0, 1, 4, 5, 11, count - 1, count, count + 1, 2**63 - 1]
        windows = [
            Window(after, before, newest_first, limit)
            for newest_first in (False, True)
            for after in beyond
            for before in beyond
            for limit in (1, 4, 50)
        ]
        pages = await asyncio.gather(*(store.read(reach, conversation, window) for window in windows))
        for window, page in zip(windows, pages, strict=True):
            wanted = [seq for seq in range(1, count + 1) if window.holds(seq)]
            if window.newest_first:
                wanted.reverse()
            assert (seqs(page), page.more) == (wanted[: window.limit], len(wanted) > window.limit), window

    async def test_a_page_ends_before_two_mebibytes(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        big = "x" * (PAGE_BYTES // 9)
        for _ in range(2):
            await store.append(reach, conversation, batch_of(*(said(big) for _ in range(8))))
        huge = tuple(Reference(n, "d", 1, "", "", 0, 0, 0, "q" * 30_000, 0.0) for n in range(1, 91))
        await store.append(reach, conversation, batch_of(replace(said("x"), references=huge)))
        first = await store.read(reach, conversation, Window())
        assert (seqs(first), first.more) == ([1, 2, 3, 4, 5, 6, 7, 8], True)
        last = await store.read(reach, conversation, Window(newest_first=True))
        assert (seqs(last), last.more) == ([17], True)
        assert [each.seq for each in await everything(store, reach, conversation)] == list(range(1, 18))
        # What an edit made larger counts as it is now.
        small, messages = await talk(store, reach, *("x" for _ in range(10)))
        for message in messages:
            await store.revise(reach, small, message.message_id, EditMessage(text=big))
        page = await store.read(reach, small, Window())
        assert (seqs(page), page.more) == ([1, 2, 3, 4, 5, 6, 7, 8], True)

    async def test_append_and_first_or_last_page_cost_the_same_at_any_length(self, workshop: Workshop) -> None:
        reach = somebody()
        short, long = [await started(workshop.store, reach) for _ in range(2)]
        await workshop.load(reach, short, 100)
        await workshop.load(reach, long, 1000)
        in_short, in_long = await _costs(workshop, reach, short), await _costs(workshop, reach, long)
        assert in_short == in_long

    async def test_a_refused_text_is_not_kept(self, store: ChatStore) -> None:
        reach, text = somebody(), "y" * (INLINE_BYTES + 1)
        conversation, closed = await started(store, reach), await started(store, reach)
        await store.append(reach, conversation, batch_of(said(text, message_id="m1"), request_id="r1"))
        await store.act(reach, closed, Finalize(reason="done"))
        refused, bodies = inline_of(said(text + "z"))
        edit = EditMessage(text=refused.text, body=refused.body, bodies=bodies, revision=7)
        again = replace(edit, text=inline_of(said(text))[0].text)
        for refusal, attempt in [
            (ConversationClosed, store.append(reach, closed, batch_of(said(text)))),
            (RequestIdReused, store.append(reach, conversation, batch_of(said(text + "z"), request_id="r1"))),
            (AlreadyExists, store.append(reach, conversation, batch_of(said(text + "z", message_id="m1")))),
            (AlreadyExists, store.append(reach, conversation, batch_of(said(text), said("", message_id="m1")))),
            (RevisionMismatch, store.revise(reach, conversation, "m1", edit)),
            (RevisionMismatch, store.revise(reach, conversation, "m1", again)),
            (NotFound, store.revise(reach, conversation, "nothing", edit)),
        ]:
            with pytest.raises(refusal):
                await attempt
        kept = [piece for piece in await dumped(store, reach.tenant_id) if isinstance(piece, KeptBody)]
        assert [(piece.conversation_id, piece.content) for piece in kept] == [(conversation, text.encode())]
        assert await whole(store.text(reach, conversation, "m1")) == text.encode()

    async def test_a_text_that_goes_while_it_is_read_is_not_cut_off(self, store: ChatStore) -> None:
        reach = somebody()
        conversation, size = await started(store, reach), 20 * BODY_CHUNK_BYTES
        (message,) = await store.append(reach, conversation, batch_of(said("x" * size)))
        read = 0
        try:
            async with aclosing(store.text(reach, conversation, message.message_id)) as chunks:
                async for chunk in chunks:
                    if not read:
                        await store.upkeep.purge(reach.tenant_id, conversation)
                    read += len(chunk)
        except NotFound:
            assert read < size
        else:
            assert read == size

    async def test_a_large_text_is_kept_apart_and_comes_back_whole(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        largest = ("ação 🏛️ \u2028" * 2_000_000).encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
        texts = [largest, "é" * (INLINE_BYTES // 2), "é" * (INLINE_BYTES // 2) + "x", *HOSTILE_TEXTS, ""]
        stored = list[Message]()
        for text in texts:
            stored += await store.append(reach, conversation, batch_of(said(text)))
        assert [bool(each.draft.body) for each in stored] == [True, False, True, False, False, False, False, False]
        assert stored[0].draft.text == largest[:BEGINNING_CHARACTERS]
        page = await store.read(reach, conversation, Window())
        assert list(page.messages) == stored
        assert sum(message.draft.size_bytes for message in page.messages) < 2 * INLINE_BYTES
        for message, text in zip(stored, texts, strict=True):
            chunks = [chunk async for chunk in store.text(reach, conversation, message.message_id)]
            assert b"".join(chunks) == text.encode()
            assert max(map(len, chunks), default=0) <= BODY_CHUNK_BYTES
        body = stored[0].draft.body
        assert body is not None
        assert body.sha256 == hashlib.sha256(largest.encode()).hexdigest()
        # The same text elsewhere, an edit to another one, and none.
        other = await started(store, reach)
        same = (await store.append(reach, other, batch_of(said(largest))))[0]
        edited, bodies = inline_of(said("b" * (INLINE_BYTES + 1)))
        act = EditMessage(text=edited.text, body=edited.body, bodies=bodies)
        await store.revise(reach, conversation, stored[0].message_id, act)
        assert await whole(store.text(reach, conversation, stored[0].message_id)) == b"b" * (INLINE_BYTES + 1)
        await store.revise(reach, conversation, stored[0].message_id, EditMessage(text="short"))
        assert await whole(store.text(reach, conversation, stored[0].message_id)) == b"short"
        assert await whole(store.text(reach, other, same.message_id)) == largest.encode()
        with pytest.raises(NotFound):
            await whole(store.text(reach, conversation, "nothing"))
        with pytest.raises(InvalidArgument):
            batch_of(said("x" * (MAX_TEXT_BYTES + 1)))

    async def test_a_revised_message_is_shown_as_it_is_now(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        conversation = await started(store, reach)
        stored = await store.append(reach, conversation, batch_of(said("ola", message_id="m1"), said("same")))
        opinion = Feedback(2, "tone", "ríspido", Sentiment.NEGATIVE, auto_generated=True, user_id="ana")
        parts = (Part(PartKind.DATA, data='{"a":1}'),)
        acts = [
            EditMessage(text="olá", parts=parts, metadata='{"b":2}', actor="ana"),
            SetFeedback(feedback=opinion, actor="ana"),
            LinkMessageAnalysis(analysis_id="x1"),
        ]
        for number, act in enumerate(acts, start=1):
            shown = await store.revise(reach, conversation, "m1", act)
            assert (shown.revision, shown.edits) == (number, 1)
            page = await store.read(reach, conversation, Window())
            backwards = await store.read(reach, conversation, Window(newest_first=True))
            assert list(page.messages) == list(reversed(backwards.messages)) == [shown, stored[1]]
            assert await store.message(reach, conversation, "m1") == shown
            found = await store.search(reach, Search(words_of("olá")))
            assert [hit.message for hit in found.hits] == [shown]
        assert (shown.seq, shown.create_time) == (1, stored[0].create_time)
        assert shown.draft == replace(stored[0].draft, text="olá", parts=parts, metadata='{"b":2}')
        assert shown.feedback is not None
        assert replace(shown.feedback, time=None) == opinion
        assert shown.analysis_ids == ("x1",)
        assert shown.update_time is not None
        assert shown.update_time >= stored[0].create_time
        # By a clock that was set back.
        late = workshop.store_at(ManualClock(stored[0].create_time.replace(year=2001)))
        cleared = await late.revise(reach, conversation, "m1", ClearFeedback())
        assert cleared.update_time is not None
        assert cleared.update_time >= shown.update_time
        assert cleared == replace(shown, feedback=None, revision=4, update_time=cleared.update_time)
        assert (await store.read(reach, conversation, Window())).messages[0] == cleared
        # Appending again is a retry of what was said, whatever became of it.
        again = batch_of(said("ola", message_id="m1"), said("same"))
        assert await store.append(reach, conversation, again) == stored

    async def test_the_preview_is_of_the_last_message_as_it_is_now(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        conversation, (first, last) = await talk(store, reach, "primeira", "última")

        async def edited(message_id: str, text: str) -> str:
            await store.revise(reach, conversation, message_id, EditMessage(text=text))
            shown = await store.get(reach, conversation)
            assert (await store.select(reach, Selection()))[0] == [shown]
            return shown.preview

        assert await edited(last.message_id, "corrigida " * 50) == ("corrigida " * 50)[:PREVIEW_CHARACTERS]
        assert await edited(last.message_id, "nul\0 e \\0") == "nul\0 e \\0"
        assert await edited(first.message_id, "não é a última") == "nul\0 e \\0"
        assert (await store.act(reach, conversation, Describe(title="x"))).preview == "nul\0 e \\0"
        await store.append(reach, conversation, batch_of(said("nova")))
        assert await edited(last.message_id, "não é mais") == "nova"
        lost = batch_of(said("do que caiu", message_id="m9"))
        await workshop.crash_after_storing(reach, conversation, lost)
        await store.revise(reach, conversation, "m9", EditMessage(text="corrigida"))
        assert (await store.get(reach, conversation)).preview == "corrigida"

    async def test_every_revision_is_kept(self, store: ChatStore) -> None:
        reach = somebody()
        conversation, (first, second) = await talk(store, reach, "zero", "other")
        states = [first]
        for number in range(1, 8):
            act = EditMessage(text=f"state {number}") if number % 2 else SetFeedback(feedback=Feedback(number % 5 + 1))
            states.append(await store.revise(reach, conversation, first.message_id, act))
            await store.revise(reach, conversation, second.message_id, EditMessage(text=f"noise {number}"))
        large, bodies = inline_of(said("x" * (INLINE_BYTES + 1)))
        act = EditMessage(text=large.text, body=large.body, bodies=bodies)
        states.append(await store.revise(reach, conversation, first.message_id, act))
        assert [state.revision for state in states] == list(range(9))
        for after in (-1, 0, 3, 8, 100):
            for limit in (1, 4, 50):
                wanted = states[after + 1 :]
                shown = await store.revisions(reach, conversation, first.message_id, after, limit)
                assert shown == (wanted[:limit], len(wanted) > limit)
        assert len((await store.revisions(reach, conversation, second.message_id, -1, 50))[0]) == 8
        with pytest.raises(NotFound):
            await store.revisions(reach, conversation, "nothing", -1, 50)

    async def test_the_version_changes_with_every_write(self, workshop: Workshop) -> None:
        store, replica, reach = workshop.store, await workshop.another_replica(), somebody()
        conversation = await started(store, reach)
        versions = [await replica.version(reach, conversation)]
        made = await store.get(reach, conversation)
        assert versions[0] == Version(made.create_time, 1, 0, 0)
        message = (await store.append(reach, conversation, pair("a")))[0]
        versions.append(await replica.version(reach, conversation))
        for write in (
            lambda: store.append(reach, conversation, pair("b")),
            lambda: store.act(reach, conversation, Describe(title="t")),
            lambda: store.revise(reach, conversation, message.message_id, EditMessage(text="c")),
            lambda: store.entries.act(reach, conversation, EntryKind.TASK, "e1", AddEntry(label="pending")),
            lambda: store.upkeep.trim(reach.tenant_id, conversation, 3),
        ):
            await write()
            versions.append(await replica.version(reach, conversation))
        assert all(before != after for before, after in pairwise(versions))
        assert versions[-1] == Version(made.create_time, 3, 4, 3)
        await store.read(reach, conversation, Window())
        assert await store.version(reach, conversation) == versions[-1]


async def _costs(workshop: Workshop, reach: Reach, conversation_id: str) -> list[Work]:
    store, costs = workshop.store, []
    for act in (
        lambda: store.append(reach, conversation_id, pair("more")),
        lambda: store.read(reach, conversation_id, Window()),
        lambda: store.read(reach, conversation_id, Window(newest_first=True)),
        lambda: store.read(reach, conversation_id, Window(after_seq=61)),
        lambda: store.get(reach, conversation_id),
        lambda: store.version(reach, conversation_id),
    ):
        await workshop.start_measuring()
        await act()
        costs.append(await workshop.work())
    assert max(cost.documents for cost in costs) <= 60
    return costs
