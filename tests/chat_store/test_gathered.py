"""Callers who share commands in MongoDB: each is told what it would have been told alone."""

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.gathered import LONGEST_UPDATE_SECONDS
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.model import Message, NewConversation
from services.chat_store.selection import Reach, Window
from shared.errors import AlreadyExists, NotFound
from shared.mongo import MongoDatabase, MongoDriver, open_mongo, transaction
from tests.chat_store.mongo_workshop import MongoWorkshop
from tests.chat_store.workshop import pair

CONVERSATIONS = 12


class PurgingStore(MongoChatStore):
    """A store in which one of the conversations goes between an append to each and the update of their headers."""

    purged = ""

    async def _bring_up_to_date(self, header: Document, append: Document) -> bool:
        if self.purged:
            if header["conversation_id"] == self.purged:
                await self._headers.conversations.delete_one({"_id": header["_id"]})
            await self._all_are_here.wait()
        return await super()._bring_up_to_date(header, append)

    @cached_property
    def _all_are_here(self) -> asyncio.Barrier:
        return asyncio.Barrier(CONVERSATIONS)


@pytest.fixture(scope="module", params=["pymongo", "motor"])
async def database(request: pytest.FixtureRequest, mongo_url: str) -> AsyncIterator[MongoDatabase]:
    driver: MongoDriver = request.param
    async with open_mongo(SecretStr(mongo_url), f"gathered_{uuid4().hex[:8]}", driver=driver) as database:
        yield database
        await database.client.drop_database(database.name)


@pytest.fixture
async def store(database: MongoDatabase) -> PurgingStore:
    store = PurgingStore(database)
    await store.ready()
    return store


@pytest.fixture
def reach() -> Reach:
    return Reach(f"t-{uuid4().hex[:8]}", "ana")


async def test_appends_versions_and_headers_of_one_moment_share_their_commands(
    database: MongoDatabase, store: MongoChatStore, reach: Reach
) -> None:
    names = await _conversations(store, reach)
    moments = []
    for number in range(1, 4):
        before = await _commands(database)
        await asyncio.gather(*(store.append(reach, name, pair("a")) for name in names))
        versions = await asyncio.gather(*(store.version(reach, name) for name in names))
        after = await _commands(database)
        assert {version.last_seq for version in versions} == {2 * number}
        moments.append({command: after[command] - before[command] for command in after})
    for command in ("find", "insert", "update", "aggregate"):
        # The server counts what others ask it meanwhile, too.
        assert min(moment[command] for moment in moments) < CONVERSATIONS / 3, command


async def test_of_a_batch_only_the_insert_that_collides_is_tried_again(
    database: MongoDatabase, store: MongoChatStore, reach: Reach
) -> None:
    names = await _conversations(store, reach)
    # Whoever appends next begins where its header says, and finds the place taken.
    await MongoWorkshop(database).crash_after_storing(reach, names[2], pair("of another replica"))
    stored = await asyncio.gather(*(store.append(reach, name, pair("a")) for name in names))
    for name, messages, length in zip(names, stored, [2, 2, 4] + [2] * (CONVERSATIONS - 3), strict=True):
        assert _seqs(messages) == [length - 1, length]
        assert _seqs(await _stored(store, reach, name)) == list(range(1, length + 1))
        assert (await store.get(reach, name)).totals.messages == length


async def test_of_a_batch_only_the_retry_and_the_stolen_id_are_answered_otherwise(
    store: MongoChatStore, reach: Reach
) -> None:
    names = await _conversations(store, reach)
    retried, taken = pair("said", request_id="r-1"), pair("taken")
    first = await store.append(reach, names[0], retried)
    await store.append(reach, names[1], taken)
    stolen = Batch((taken.drafts[0],), "", "another fingerprint")
    batches = [retried, stolen, *(pair("new") for _ in names[2:])]
    answers = await asyncio.gather(
        *(store.append(reach, name, batch) for name, batch in zip(names, batches, strict=True)), return_exceptions=True
    )
    assert answers[0] == first
    assert isinstance(answers[1], AlreadyExists)
    assert [_seqs(answer) for answer in answers[2:]] == [[1, 2]] * len(names[2:])
    assert [len(await _stored(store, reach, name)) for name in names] == [2] * CONVERSATIONS


async def test_a_conversation_that_goes_meanwhile_takes_nothing_from_the_others(
    database: MongoDatabase, store: PurgingStore, reach: Reach
) -> None:
    names = await _conversations(store, reach)
    store.purged = names[3]
    answers = await asyncio.gather(*(store.append(reach, name, pair("a")) for name in names), return_exceptions=True)
    assert [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, NotFound)] == [names[3]]
    assert all(_seqs(answer) == [1, 2] for name, answer in zip(names, answers, strict=True) if name != names[3])
    left = documents.appends_of(documents.conversation_key(reach.tenant_id, names[3]))
    assert await database[documents.APPENDS].count_documents(left) == 0


async def test_a_caller_that_goes_away_takes_nothing_from_the_others_and_may_come_back(
    store: MongoChatStore, reach: Reach
) -> None:
    names = await _conversations(store, reach)
    batches = [pair("a", request_id=f"r-{name}") for name in names]
    for pause in (0.0, 0.001, 0.003, 0.006):
        calls = [
            asyncio.create_task(store.append(reach, name, batch)) for name, batch in zip(names, batches, strict=True)
        ]
        await asyncio.sleep(pause)
        for call in calls[::3]:
            call.cancel()
        await asyncio.wait(calls)
        assert all(_seqs(call.result()) == [1, 2] for place, call in enumerate(calls) if place % 3)
    again = await asyncio.gather(
        *(store.append(reach, name, batch) for name, batch in zip(names, batches, strict=True))
    )
    assert [_seqs(stored) for stored in again] == [[1, 2]] * CONVERSATIONS
    assert [await _stored(store, reach, name) for name in names] == again


@pytest.fixture
async def long_transactions(database: MongoDatabase) -> AsyncIterator[None]:
    """The server ends no transaction because the machine is slow."""
    limit = {"setParameter": 1, "transactionLifetimeLimitSeconds": 600}
    before = (await database.client.admin.command(limit))["was"]
    yield
    await database.client.admin.command({**limit, "transactionLifetimeLimitSeconds": before})


@pytest.mark.usefixtures("long_transactions")
async def test_a_header_that_another_replica_holds_holds_up_nobody_elses_append(
    database: MongoDatabase, store: MongoChatStore, reach: Reach
) -> None:
    names = await _conversations(store, reach)
    held = {"_id": documents.conversation_key(reach.tenant_id, names[0])}
    async with transaction(database) as session:
        await database[documents.CONVERSATIONS].update_one(held, {"$inc": {"revision": 1}}, session=session)
        waiting, *others = [asyncio.create_task(store.append(reach, name, pair("a"))) for name in names]
        async with asyncio.timeout(LONGEST_UPDATE_SECONDS + 60):
            stored = await asyncio.gather(*others)
        assert not waiting.done()
        later = await asyncio.gather(*(store.append(reach, name, pair("b")) for name in names[1:]))
    assert [_seqs(messages) for messages in [await waiting, *stored]] == [[1, 2]] * CONVERSATIONS
    assert [_seqs(messages) for messages in later] == [[3, 4]] * (CONVERSATIONS - 1)


async def test_what_is_large_is_inserted_alone(database: MongoDatabase, store: MongoChatStore, reach: Reach) -> None:
    names = await _conversations(store, reach)
    before = await _commands(database)
    await asyncio.gather(*(store.append(reach, name, pair("palavra " * 10_000)) for name in names))
    after = await _commands(database)
    assert after["insert"] - before["insert"] >= CONVERSATIONS
    assert [len(await _stored(store, reach, name)) for name in names] == [2] * CONVERSATIONS


async def _conversations(store: MongoChatStore, reach: Reach) -> list[str]:
    names = [f"c-{number}" for number in range(CONVERSATIONS)]
    await asyncio.gather(*(store.create(reach, NewConversation(name, "ana")) for name in names))
    return names


async def _stored(store: MongoChatStore, reach: Reach, name: str) -> list[Message]:
    return list((await store.read(reach, name, Window(limit=100))).messages)


async def _commands(database: MongoDatabase) -> dict[str, int]:
    status = await database.command("serverStatus")
    return {name: counts["total"] for name, counts in status["metrics"]["commands"].items() if isinstance(counts, dict)}


def _seqs(answer: object) -> list[int]:
    assert isinstance(answer, list), answer
    return [message.seq for message in answer]
