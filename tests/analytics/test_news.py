"""What the feed tells beside turns: feedback that changes, conversations that end or of which nothing is kept."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.intake.entries import fields_of
from services.analytics.intake.streams import Kind
from services.analytics.intake.wire import entry_bytes, kind_of
from shared.mongo import MongoDatabase
from tests.analytics.conftest import Redis
from tests.analytics.events import NOON, answer, appended, question
from tests.analytics.intake_site import Site, until


async def tell(site: Site, *events: feed_pb.Event) -> None:
    """As the follower of the feed does."""
    for event in events:
        kind = kind_of(event)
        assert kind is not None
        await site.intake.streams[kind].quick.add([fields_of([entry_bytes(event)])])


async def worked_off(site: Site) -> bool:
    return not any([await site.intake.streams[kind].length() for kind in (Kind.EXECUTION, Kind.SESSION)])


def rated(
    event_id: str, rating: int, revision: int, *, message_id: str = "m1", generated: bool = False
) -> feed_pb.Event:
    event = feed_pb.Event(event_id=event_id, tenant_id="acme", conversation_id="c")
    message = answer()
    message.message_id, message.revision = message_id, revision
    feedback = chat_pb.Feedback(rating=rating, category="clareza", comment="meu CPF é 123", auto_generated=generated)
    message.feedback.CopyFrom(feedback)
    event.message_changed.message.CopyFrom(message)
    event.message_changed.channel = "web"
    return event


def finalized(event_id: str) -> feed_pb.Event:
    event = feed_pb.Event(event_id=event_id, tenant_id="acme", conversation_id="c")
    event.conversation_changed.conversation.title = "meu CPF é 123"
    event.conversation_changed.conversation.finalize_time.FromDatetime(NOON)
    return event


async def day(database: MongoDatabase, axis: str, value: str) -> dict[str, Any]:
    key = {"_id.tenant_id": "acme", "_id.axis": axis, "_id.value": value, "_id.step": "day"}
    return await database["series"].find_one(key) or {}


async def test_the_newest_feedback_of_a_message_counts_in_whatever_order_it_comes(
    database: MongoDatabase, redis: Redis
) -> None:
    site = Site(database, redis)
    news = [rated("b", 5, 3), rated("a", 1, 2), rated("b", 5, 3), rated("c", 2, 1, message_id="m2")]
    news.append(rated("d", 3, 1, message_id="m3", generated=True))
    async with site.working():
        await tell(site, *news)
        await until(lambda: worked_off(site))
        await tell(site, rated("e", 4, 4))
        await until(lambda: worked_off(site))
    for axis, value in (("total", ""), ("assistant", "helper"), ("channel", "web"), ("feedback_category", "clareza")):
        found = await day(database, axis, value)
        counts = {name: found.get(name, 0) for name in ("ratings", "rating_1", "rating_2", "rating_4", "rating_5")}
        assert counts == {"ratings": 2, "rating_1": 0, "rating_2": 1, "rating_4": 1, "rating_5": 0}
        assert found["generated_ratings"] == 1


async def test_feedback_that_stored_history_tells_with_its_message_counts_once(
    database: MongoDatabase, redis: Redis
) -> None:
    change = rated("later", 5, 3)
    told = appended("e", question(), change.message_changed.message)
    site = Site(database, redis)
    async with site.working():
        await tell(site, told, change)
        await until(lambda: worked_off(site))
    total = await day(database, "total", "")
    assert (total["turns"], total["ratings"], total["rating_5"]) == (1, 1, 1)


async def test_a_finalized_conversation_is_a_session_at_once_and_goes_on_if_it_does(
    database: MongoDatabase, redis: Redis
) -> None:
    site = Site(database, redis)
    now = datetime.now(UTC)
    async with site.working(session_sweep_seconds=0.05):
        await tell(site, finalized("f"), appended("e1", question(at=now), answer(at=now)))
        await until(lambda: _sessions(database, 1))
        await tell(site, appended("e2", question(at=now), answer(at=now)))
        await until(lambda: _turns_of_sessions(database, 2))
    total = await day(database, "total", "")
    assert total["sessions"] == 1


async def _sessions(database: MongoDatabase, sessions: int) -> bool:
    return (await day(database, "total", "")).get("sessions") == sessions


async def _turns_of_sessions(database: MongoDatabase, turns: int) -> bool:
    return (await day(database, "total", "")).get("session_turns_sum") == turns


async def test_the_words_of_a_purged_conversation_are_forgotten_and_its_sums_stay(
    database: MongoDatabase, redis: Redis
) -> None:
    forgotten: list[tuple[str, list[str]]] = []

    async def forget(tenant_id: str, conversation_ids: Sequence[str]) -> None:
        forgotten.append((tenant_id, list(conversation_ids)))

    purged = feed_pb.Event(event_id="p", tenant_id="acme", conversation_id="c")
    purged.conversation_purged.SetInParent()
    purged.event_time.FromDatetime(NOON)
    site = Site(database, redis, forget=forget)
    async with site.working():
        await tell(site, appended("e", question(), answer()), purged)
        await until(lambda: worked_off(site))
    assert forgotten == [("acme", ["c"])]
    assert (await day(database, "total", ""))["turns"] == 1
    assert await site.intake.turns.settled(["p", "e"]) == {"p", "e"}


async def test_no_words_travel_with_news(database: MongoDatabase, redis: Redis) -> None:
    site = Site(database, redis)
    await tell(site, rated("a", 1, 2), finalized("f"))
    for _, fields in await redis.xrange("metrics:session"):
        assert b"CPF" not in fields[b"event"]
        assert "março".encode() not in fields[b"event"]
