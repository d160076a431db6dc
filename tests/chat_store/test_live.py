"""Following a conversation: nothing missed, nothing twice, whatever breaks and however slow the follower is."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from services.chat_store import inbox as inbox_module
from services.chat_store import live as live_module
from services.chat_store.acts import (
    AddEntry,
    Archive,
    Delete,
    Describe,
    EditMessage,
    RemoveEntry,
    SetFeedback,
    UpdateTask,
)
from services.chat_store.entries import Entry, EntryKind, TaskStatus
from services.chat_store.following import Gone, Update
from services.chat_store.happenings import Appended, Changed, Event, Shard
from services.chat_store.inbox import Inbox
from services.chat_store.live import Live
from services.chat_store.model import Conversation, Feedback, Message
from services.chat_store.selection import Reach
from services.chat_store.store import WHOLE_FEED, ChatStore
from shared.errors import NotFound, Unavailable
from tests.chat_store.replicas import Replicas
from tests.chat_store.workshop import pair, said, somebody, started
from tests.house.waiting import until

PATIENCE_SECONDS = 60.0
Kind = TypeVar("Kind")


class Watched:
    """A store whose feeds are counted, and can be broken: the next event is swallowed with its feed."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store
        self.feeds_open = 0
        self.feeds_opened = 0
        self.breaks = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def watch(self, tenant_id: str, resume_token: str, shard: Shard = WHOLE_FEED) -> AsyncGenerator[Event, None]:
        self.feeds_open += 1
        self.feeds_opened += 1
        try:
            async with aclosing(self._store.watch(tenant_id, resume_token, shard)) as events:
                async for event in events:
                    if self.breaks and event.what is not None:
                        self.breaks = False
                        raise Unavailable("the feed broke")
                    yield event
        finally:
            self.feeds_open -= 1


class Follower:
    """Somebody who follows, and what they were told."""

    def __init__(self) -> None:
        self.told: list[Update] = []

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [each for each in self.told if isinstance(each, kind)]

    @property
    def said(self) -> list[int]:
        """The `seq` of the messages that were told as they were said."""
        return [message.seq for message in self.of(Message) if not message.revision]

    async def heard(self, condition: Callable[[], object]) -> None:
        await until(condition, PATIENCE_SECONDS)


@asynccontextmanager
async def following(live: Live, reach: Reach, conversation_id: str, after_seq: int = 0) -> AsyncIterator[Follower]:
    """Entered, but what is stored may not be told yet."""
    follower, entered = Follower(), asyncio.Event()

    async def follow() -> None:
        async with aclosing(live.follow(reach, conversation_id, after_seq)) as updates:
            entered.set()
            async for update in updates:
                follower.told.append(update)

    task = asyncio.create_task(follow())
    await entered.wait()
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


@pytest.fixture
def watched(replicas: Replicas) -> ChatStore:
    return Watched(replicas.store)


async def test_a_follower_is_told_what_is_stored_and_what_comes_from_any_replica(replicas: Replicas) -> None:
    store, other, reach = replicas.store, replicas.other, somebody()
    conversation_id = await started(store, reach)
    for number in range(3):
        await store.append(reach, conversation_id, pair(f"{number}"))
    async with following(Live(store), reach, conversation_id, after_seq=2) as follower:
        await asyncio.gather(
            *(replica.append(reach, conversation_id, pair("live")) for replica in (store, other) for _ in range(10))
        )
        await follower.heard(lambda: len(follower.told) >= 44)
    assert [message.seq for message in follower.of(Message)] == list(range(3, 47))


async def test_a_follower_is_told_of_every_kind_of_change(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    conversation_id = await started(store, reach)
    first, second = await store.append(reach, conversation_id, pair("antes"))
    task, event = EntryKind.TASK, EntryKind.EVENT
    async with following(Live(store), reach, conversation_id) as follower:
        await follower.heard(lambda: follower.said == [1, 2])
        await store.revise(reach, conversation_id, first.message_id, EditMessage(text="depois"))
        await store.revise(reach, conversation_id, second.message_id, SetFeedback(feedback=Feedback(5)))
        await store.act(reach, conversation_id, Describe(title="IPTU"))
        await store.act(reach, conversation_id, Archive())
        await store.entries.act(reach, conversation_id, task, "t1", AddEntry(label=TaskStatus.PENDING.value))
        await store.entries.act(reach, conversation_id, event, "e1", AddEntry(label="opened", by="rui"))
        await follower.heard(lambda: len(follower.of(Entry)) == 2)
        await store.entries.act(reach, conversation_id, task, "t1", UpdateTask(status=TaskStatus.COMPLETED))
        await follower.heard(lambda: len(follower.of(Entry)) == 3)
        await store.entries.act(reach, conversation_id, task, "t1", RemoveEntry())
        await follower.heard(lambda: len(follower.of(Entry)) == 4)
    changed = [message for message in follower.of(Message) if message.revision]
    assert changed == [
        await store.message(reach, conversation_id, first.message_id),
        await store.message(reach, conversation_id, second.message_id),
    ]
    assert follower.of(Conversation)[-1].archive_time is not None
    assert follower.of(Conversation)[-1].description.title == "IPTU"
    assert [(entry.entry_id, entry.label, entry.removed) for entry in follower.of(Entry)] == [
        ("t1", "pending", False),
        ("e1", "opened", False),
        ("t1", "completed", False),
        ("t1", "completed", True),
    ]


async def test_what_was_changed_before_is_shown_as_it_is_now_and_not_told_again(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    conversation_id = await started(store, reach)
    (first, _) = await store.append(reach, conversation_id, pair("antes"))
    await store.revise(reach, conversation_id, first.message_id, EditMessage(text="depois"))
    async with following(Live(store), reach, conversation_id) as follower:
        await follower.heard(lambda: len(follower.told) >= 2)
        await store.append(reach, conversation_id, pair("então"))
        await follower.heard(lambda: len(follower.told) >= 4)
    assert [(message.seq, message.revision) for message in follower.of(Message)] == [(1, 1), (2, 0), (3, 0), (4, 0)]


async def test_what_happens_while_a_follower_looks_at_the_conversation_is_told(replicas: Replicas) -> None:
    reach, others = somebody(), list[Follower]()
    conversation_id = await started(replicas.store, reach)

    class Slow(Watched):
        async def get(self, reach: Reach, conversation_id: str) -> Conversation:
            seen = await replicas.store.get(reach, conversation_id)
            if others:
                other = others.pop()
                act = replicas.store.entries.act
                await replicas.store.act(reach, conversation_id, Describe(title="IPTU"))
                await act(reach, conversation_id, EntryKind.TASK, "t1", AddEntry(label=TaskStatus.PENDING.value))
                await other.heard(lambda: other.of(Entry))
            return seen

    live = Live(Slow(replicas.store))
    async with following(live, reach, conversation_id) as other:
        await replicas.store.append(reach, conversation_id, pair("a"))
        await other.heard(lambda: other.said == [1, 2])
        others.append(other)
        async with following(live, reach, conversation_id) as follower:
            await follower.heard(lambda: follower.of(Entry))
    assert follower.said == [1, 2]
    assert [conversation.description.title for conversation in follower.of(Conversation)] == ["IPTU"]


@pytest.mark.parametrize("end", ["delete", "purge"])
async def test_following_ends_when_the_conversation_is_gone(replicas: Replicas, end: str) -> None:
    store, reach = replicas.store, somebody()
    conversation_id = await started(store, reach)
    async with following(Live(store), reach, conversation_id) as follower:
        await store.append(reach, conversation_id, pair("a"))
        await follower.heard(lambda: follower.said == [1, 2])
        if end == "delete":
            await store.act(reach, conversation_id, Delete(purge_after_days=1))
        else:
            await store.upkeep.purge(reach.tenant_id, conversation_id)
            await started(store, reach, conversation_id=conversation_id)
        await follower.heard(lambda: follower.of(Gone))
    assert follower.told[-1] == Gone()


async def test_following_ends_when_the_conversation_expires_and_talking_puts_that_off(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    conversation_id = await started(store, reach)
    await store.act(reach, conversation_id, Describe(ttl_seconds=3))
    async with following(Live(store), reach, conversation_id) as follower:
        await store.append(reach, conversation_id, pair("a"))
        await follower.heard(lambda: follower.of(Gone))
    assert follower.said == [1, 2]
    with pytest.raises(NotFound):
        await store.get(reach, conversation_id)


async def test_what_is_out_of_reach_cannot_be_followed(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    conversation_id = await started(store, reach)
    live = Live(store)
    for stranger in (Reach(reach.tenant_id, "rui"), somebody(), Reach(reach.tenant_id, "")):
        with pytest.raises(NotFound):
            await anext(live.follow(stranger, conversation_id, 0))


async def test_a_follower_of_a_broken_feed_misses_nothing(watched: Watched) -> None:
    store, reach = watched, somebody()
    conversation_id = await started(store, reach)
    await store.append(reach, conversation_id, pair("a"))
    async with following(Live(store), reach, conversation_id) as follower:
        await follower.heard(lambda: follower.said == [1, 2])
        for _ in range(3):
            store.breaks = True
            (first, _) = await store.append(reach, conversation_id, pair("a"))
            await store.revise(reach, conversation_id, first.message_id, EditMessage(text="b"))
            await follower.heard(lambda: not store.breaks)
        await follower.heard(lambda: len(follower.told) >= 11)
    assert follower.said == list(range(1, 9))
    assert [message.seq for message in follower.of(Message) if message.revision] == [3, 5, 7]
    assert store.feeds_opened == 4


async def test_after_a_long_break_a_follower_is_told_whatever_differs(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "RESUMABLE_SECONDS", 0.0)
    store, reach = watched, somebody()
    conversation_id = await started(store, reach)
    (first, _) = await store.append(reach, conversation_id, pair("a"))
    async with following(Live(store), reach, conversation_id) as follower:
        await follower.heard(lambda: follower.said == [1, 2])
        store.breaks = True
        await store.revise(reach, conversation_id, first.message_id, EditMessage(text="b"))
        await store.act(reach, conversation_id, Describe(title="IPTU"))
        await store.append(reach, conversation_id, pair("c"))
        await store.entries.act(reach, conversation_id, EntryKind.TASK, "t1", AddEntry(label=TaskStatus.PENDING.value))
        await follower.heard(lambda: follower.of(Entry))
        await store.append(reach, conversation_id, pair("d"))
        await follower.heard(lambda: follower.said == [1, 2, 3, 4, 5, 6])
    assert [(message.seq, message.draft.text) for message in follower.of(Message) if message.revision] == [(1, "b")]
    assert [conversation.description.title for conversation in follower.of(Conversation)] == ["IPTU"]


@pytest.mark.parametrize("edited", [False, True], ids=["said", "edited"])
async def test_a_slow_follower_is_told_all_though_its_inbox_is_small(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    monkeypatch.setattr(inbox_module, "MOST_MESSAGES", 6)
    monkeypatch.setattr(inbox_module, "MOST_CHANGES", 6)
    store, reach = replicas.store, somebody()
    conversation_id = await started(store, reach)
    quick = Live(store)
    async with (
        following(quick, reach, conversation_id) as other,
        aclosing(quick.follow(reach, conversation_id, 0)) as updates,
    ):
        await store.append(reach, conversation_id, pair("a"))
        told: list[Message] = []
        await _tell(updates, told, 2)
        for number in range(20):
            (first, _) = await store.append(reach, conversation_id, pair(f"{number}"))
            if edited:
                await store.revise(reach, conversation_id, first.message_id, EditMessage(text="b"))
        await other.heard(lambda: len({message.seq for message in other.of(Message)}) == 42)
        await _tell(updates, told, 42)
    assert [message.seq for message in told] == list(range(1, 43))
    texts = [message.draft.text for message in told if message.seq % 2 and message.seq > 2]
    assert texts == (["b"] * 20 if edited else [f"{number}" for number in range(20)])


async def _tell(updates: AsyncGenerator[Update, None], told: list[Message], count: int) -> None:
    """Goes on until so many messages were told."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < count:
            update = await anext(updates)
            if isinstance(update, Message):
                told.append(update)


def test_an_inbox_never_grows_and_says_what_it_forgot() -> None:
    inbox, now = Inbox(), datetime.now(UTC)
    inbox.begin(now)
    for seq in range(1, 1001):
        message = Message(seq, now, said(f"{seq}", message_id=f"m{seq}"))
        inbox.tell(Event("t", what=Appended((message,), "ana", "", "", ""), time=now))
        inbox.tell(Event("t", what=Changed(replace(message, revision=1), "ana", "ana", "", "", ""), time=now))
        assert inbox.held <= inbox_module.MOST_MESSAGES + inbox_module.MOST_CHANGES
    news = inbox.take()
    assert (news.behind, news.lost) == (True, True)
    inbox.tell(Event("t", what=Changed(replace(message, revision=2), "ana", "ana", "", "", ""), time=now))
    inbox.tell(Event("t", what=Changed(replace(message, revision=3), "ana", "ana", "", "", ""), time=now))
    news = inbox.take()
    assert [change.revision for change in news.changes] == [3], "only the last state of a thing is held"
    assert (news.behind, news.lost) == (False, False)
    earlier = now - timedelta(seconds=1)
    inbox.tell(Event("t", what=Appended((message,), "ana", "", "", ""), time=earlier))
    assert inbox.take().messages == (), "what is of an earlier conversation of that id is not of this one"


async def test_a_thousand_followers_share_one_feed_and_the_last_one_closes_it(watched: Watched) -> None:
    store, reach = watched, somebody()
    live = Live(store)
    conversations = [await started(store, reach) for _ in range(20)]
    heard = 0

    async def follow(conversation_id: str) -> None:
        nonlocal heard
        async with aclosing(live.follow(reach, conversation_id, 0)) as updates:
            assert [(await anext(updates)).seq, (await anext(updates)).seq] == [1, 2]  # type: ignore[union-attr]
            heard += 1
            assert (await anext(updates)).seq == 3  # type: ignore[union-attr]

    for conversation_id in conversations:
        await store.append(reach, conversation_id, pair("a"))
    followers = list[asyncio.Task[None]]()
    while len(followers) < 1000:
        followers.extend(asyncio.create_task(follow(each)) for each in conversations)
        await until(lambda: heard == len(followers), PATIENCE_SECONDS)
    assert store.feeds_opened == 1
    for conversation_id in conversations:
        await store.append(reach, conversation_id, pair("b"))
    await asyncio.wait_for(asyncio.gather(*followers), PATIENCE_SECONDS)
    await until(lambda: not store.feeds_open)
    assert store.feeds_opened == 1


async def test_a_feed_that_cannot_begin_is_unavailable_and_the_next_follower_tries_again(replicas: Replicas) -> None:
    reach = somebody()
    conversation_id = await started(replicas.store, reach)

    class Away(Watched):
        away = True

        async def position(self, tenant_id: str) -> str:
            if self.away:
                raise Unavailable("the store is away")
            return await replicas.store.position(tenant_id)

    store = Away(replicas.store)
    live = Live(store)
    with pytest.raises(Unavailable):
        await anext(live.follow(reach, conversation_id, 0))
    store.away = False
    await replicas.store.append(reach, conversation_id, pair("a"))
    async with following(live, reach, conversation_id) as follower:
        await follower.heard(lambda: follower.said == [1, 2])
